"""Weight files, published or given: found in the caches, read without running them, put under an encoder's names."""

from __future__ import annotations

import inspect
import json
import math
import re
import socket
import sys
import threading
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors.torch
import timm
import torch
from huggingface_hub import constants
from timm.layers.pos_embed import resample_abs_pos_embed

from src.errors import UserError
from src.spec import NetworkSpec

PREFIXES = (
    "network.architecture.encoder.",
    "network.",
    "module.encoder_q.",
    "module.base_encoder.",
    "encoder_q.",
    "base_encoder.",
    "module.backbone.",
    "model.backbone.",
    "model.encoder.",
    "module.",
    "backbone.",
    "encoder.",
    "model.",
)
"""What training frameworks put before an encoder's names (ours, MoCo's, DINO's, Lightning's, DataParallel's)."""

WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "student")
"""Under which key training frameworks keep the tensors."""

_DEEPEST = 9
"""Wrappers in wrappers that are opened: a file may hold itself."""

_PATIENCE = 3.0
"""Seconds that a server may take to be reached before there is taken to be no network."""


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], NetworkSpec | None]:
    """Read a weights file, safetensors or a pickle of plain tensors; nothing in it is run.

    Returns:
        The tensors by name; and what a checkpoint of ours says of its network, None for other files.

    Raises:
        UserError: There is no such file, it holds no tensors by name, or a newer version wrote it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no weights file {path}; give a .safetensors, .pth, .pt, .bin or .ckpt file.")
    try:
        if path.suffix.lower() == ".safetensors":
            return dict(safetensors.torch.load_file(path, device="cpu")), None
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise whatever the bytes provoke
        raise UserError(
            f"{path} cannot be read as plain tensors ({type(error).__name__}); expected safetensors, or a pickle that "
            "torch.load(weights_only=True) takes."
        ) from error
    spec = _described(content, path)
    for _ in range(_DEEPEST):
        inner = [
            content[key] for key in WRAPPERS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)
        ]
        if not inner:
            break
        content = inner[0]
    tensors = content if isinstance(content, Mapping) else {}
    found = {_bare(str(name)): value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise UserError(f"{path} holds no tensors by name; expected the state dict of an encoder.")
    return found, spec


def _described(content: Any, path: Path) -> NetworkSpec | None:
    parameters = content.get("hyper_parameters") if isinstance(content, Mapping) else None
    row = parameters.get("spec") if isinstance(parameters, Mapping) else None
    return NetworkSpec.from_dict(row, str(path)) if isinstance(row, Mapping) and "format" in row else None


def own_tensors(state: Mapping[str, torch.Tensor], names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return an encoder's tensors where it was saved from here or from smp, behind a prefix; else nothing.

    They are in their final form: what timm does to its published files would not know them.
    """
    names = list(names)
    for prefix in ("", *PREFIXES):
        found = {name: state[prefix + name] for name in names if prefix + name in state}
        if all(name in found or name.endswith("num_batches_tracked") for name in names):
            return found
    return {}


def check_numbers(tensors: Mapping[str, torch.Tensor], origin: str) -> None:
    """Raise UserError where tensors hold no numbers, or such that no network can start from."""
    for name, value in tensors.items():
        if value.is_meta or value.is_quantized or value.is_complex() or value.layout != torch.strided:
            raise UserError(f"{origin}: {name} is no plain tensor of numbers; expected a state dict as it was trained.")
        if not value.isfinite().all():
            raise UserError(
                f"{origin}: {name} has values that are no numbers (NaN or infinite), so every answer would be; "
                "expected weights of a training that went well. Take others."
            )


def aligned(state: Mapping[str, torch.Tensor], names: Iterable[str], origin: str) -> dict[str, torch.Tensor]:
    """Put tensors under an encoder's own names.

    Prefixes of training frameworks are dropped, and ``stages_0`` (a timm encoder that gives features) is ``stages.0``
    (the same one that classifies). Counters of batch norms may be missing; heads and decoders are left out.

    Args:
        state: The tensors as they were saved.
        names: The encoder's own names.
        origin: What to call the tensors in an error.

    Raises:
        UserError: Some of the encoder's tensors are missing.
    """
    wanted = {_plain(re.sub(r"^(model\.)+(body\.)?", "", name)): name for name in names}
    best: dict[str, torch.Tensor] = {}
    for prefix in ("", *PREFIXES):
        found = {
            wanted[plain]: value
            for name, value in state.items()
            if name.startswith(prefix) and (plain := _plain(name[len(prefix) :])) in wanted
        }
        best = max(best, found, key=len)
    missing = [name for name in wanted.values() if name not in best and not name.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{origin} has {len(state)} tensors, but {len(missing)} of the encoder's {len(wanted)} are not among them "
            f"(first {missing[0]}); give weights of the encoder that encoder= names."
        )
    return best


def _bare(name: str) -> str:
    """Leave out of a name what torch.compile and DataParallel (around a Lightning module's ``model`` too) put there."""
    return re.sub(r"^((?:model\.)?)module\.", r"\1", name.replace("_orig_mod.", ""))


def _plain(name: str) -> str:
    """Undo what timm's feature wrappers do to the dots of a name."""
    return name.replace(".", "_")


def filtered(
    base: str, state: dict[str, torch.Tensor], channels: int, arguments: Mapping[str, Any], origin: str
) -> dict[str, torch.Tensor]:
    """Let timm bring tensors into today's names and this encoder's sizes (position embeddings, patches, windows).

    Args:
        base: timm's name, with or without tag.
        state: The tensors as they were saved.
        channels: Bands that the weights were trained on.
        arguments: What the encoder is built with.
        origin: What to call the tensors in an error.

    Returns:
        All tensors of the whole timm model under its names, except what the file lacks.

    Raises:
        UserError: They are of another model.
    """
    with torch.device("meta"):  # its shapes are enough
        model = timm.create_model(base, **{"in_chans": channels, "num_classes": 0, **arguments})
    module = sys.modules[type(model).__module__]
    own = model.state_dict()
    prefix = max(("", *PREFIXES), key=lambda p: sum(p + name in state for name in own))
    stripped: dict[str, Any] = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    rename = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if rename is not None:
        takes = (stripped, model) if len(inspect.signature(rename).parameters) > 1 else (stripped,)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # timm resizes position biases with an indexing that torch is to change
                stripped = rename(*takes)
        except Exception as error:  # timm raises whatever other names and shapes provoke
            raise UserError(
                f"{origin} has tensors that timm cannot bring into the form of {base} ({type(error).__name__}); give "
                "weights of the encoder that encoder= names."
            ) from error
    return {
        name: _resampled(value, own.get(name), arguments.get("img_size"))
        for name, value in stripped.items()
        if isinstance(value, torch.Tensor)
    }


def _resampled(value: torch.Tensor, own: torch.Tensor | None, size: tuple[int, int] | None) -> torch.Tensor:
    """Bring a position embedding to the chips' grid where timm leaves it as it is (Hiera)."""
    if own is None or size is None or value.ndim != 3 or own.ndim != 3 or value.shape[::2] != own.shape[::2]:
        return value
    stride = math.isqrt(size[0] * size[1] // own.shape[1])
    grid = [side // stride for side in size]
    before = math.isqrt(value.shape[1])
    if value.shape == own.shape or grid[0] * grid[1] != own.shape[1] or before**2 != value.shape[1]:
        return value
    resampled: torch.Tensor = resample_abs_pos_embed(value, grid, [before, before], num_prefix_tokens=0)
    return resampled


def hub_file(repository: str, names: Iterable[str], revision: str | None = None) -> Path:
    """Return a file of the Hugging Face hub, from the cache if it is there.

    Args:
        repository: Owner and name.
        names: File names, the preferred one first.
        revision: Commit or branch.

    Raises:
        UserError: It is not in the cache and the hub cannot be reached, or has no such file.
    """
    names = list(names)
    for name in names:
        cached = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    folder = (
        Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots" / (revision or "main")
    )
    url = f"{constants.ENDPOINT}/{repository}/resolve/{revision or 'main'}/{names[0]}"
    if not constants.HF_HUB_OFFLINE and reachable(constants.ENDPOINT):
        for name in names:
            try:
                return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
            except (huggingface_hub.errors.EntryNotFoundError, huggingface_hub.errors.RepositoryNotFoundError):
                continue
            except (OSError, huggingface_hub.errors.HfHubHTTPError):
                break
    raise UserError(_missing(url, folder / names[0]))


def url_file(url: str) -> Path:
    """Return a file of torch hub's cache, downloaded if it is not there and the hash in its name holds.

    Raises:
        UserError: It is not in the cache and the server cannot be reached.
    """
    name = Path(urllib.parse.urlparse(url).path).name
    target = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not target.is_file():
        if constants.HF_HUB_OFFLINE or not reachable(url):
            raise UserError(_missing(url, target))
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([0-9a-f]{8,})\.", name)
        try:
            torch.hub.download_url_to_file(url, str(target), hash_prefix=digest[1] if digest else None, progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{_missing(url, target)} ({error})") from error
    return target


def reachable(url: str) -> bool:
    """Tell within seconds whether a server, or the proxy before it, accepts connections."""
    parts = urllib.parse.urlparse(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and parts.hostname and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlparse(proxy)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    answers: list[bool] = []

    def knock() -> None:
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=_PATIENCE):
                answers.append(True)
        except OSError:
            answers.append(False)

    # A thread, since looking up a name has no time limit of its own.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return bool(answers and answers[0])


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises UserError for a file that holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _no_json(path, str(error)) from error
    if not isinstance(content, dict):
        raise _no_json(path, f"it holds {type(content).__name__}")
    return content


def _no_json(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is no JSON object ({reason}); expected one as it was published. Delete it to have it fetched again."
    )


def _missing(url: str, target: Path) -> str:
    return (
        f"The weights are not on this machine and cannot be downloaded; put {url} at {target}, or give the file "
        "itself: weights=file weights.path=… (docs/weights.md)."
    )
