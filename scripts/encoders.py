"""Find out which encoder goes with which architecture, and write the answer down: python scripts/encoders.py.

Every encoder of smp and timm is built with every architecture that takes one, for 13 bands, and run once on a chip of
256 × 256 px, by shapes alone (torch's meta device: every layer's sizes are checked, no number is computed, so that
networks of billions of parameters need no memory). What fails at this size is tried at others. Takes one to two hours
on one core; progress is kept in logs/encoders.jsonl, so it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
import torch.nn.functional as F
from rich.progress import track

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from src.errors import UserError  # noqa: E402
from src.models.architectures import WITH_ENCODER, build, in_words, outline, trial  # noqa: E402
from src.models.encoders import TIMM, smp_names, timm_names  # noqa: E402

BANDS, CLASSES = 13, 5
SIZES = (256, 224, 192, 240, 384, 448, 512)
"""Chip sizes in pixels: the default first, then those that encoders are published for."""

LIMIT = 300
"""Seconds for one encoder with all architectures."""

WORKS = "✓"


def main() -> None:
    """Test what is not yet known, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="encoders (tu-resnet18); all by default")
    parser.add_argument("--state", type=Path, default=ROOT / "logs" / "encoders.jsonl", help="where progress is kept")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "encoders.md", help="the table")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    everything = [*smp_names(), *(TIMM + name for name in timm_names())]
    known = read_state(arguments.state)
    todo = [name for name in arguments.names or everything if name not in known]
    arguments.state.parent.mkdir(parents=True, exist_ok=True)
    with arguments.state.open("a") as stream:
        stream.write("\n" if stream.tell() else "")  # the last line may have been cut off
        for name, found in track(examine_all(todo, arguments.workers), "encoders", total=len(todo)):
            known[name] = found
            stream.write(json.dumps({"encoder": name, "versions": versions(), "found": found}) + "\n")
            stream.flush()
    missing = [name for name in everything if name not in known]
    if missing:
        print(f"{len(missing)} encoders are still to be tested (first {missing[0]}); run it without names for all.")
        return
    arguments.output.write_text(table({name: known[name] for name in everything}))
    print(f"{arguments.output}: {len(everything)} encoders × {len(WITH_ENCODER)} architectures")


def versions() -> dict[str, str]:
    """Versions that the answer depends on."""
    return {name: version(name) for name in ("torch", "timm", "segmentation-models-pytorch")}


def read_state(path: Path) -> dict[str, dict[str, str]]:
    """Read what is known for today's versions: per encoder and architecture ✓, the sizes that work, or why not."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return {row["encoder"]: row["found"] for row in rows if row["versions"] == versions()}


def examine_all(names: list[str], workers: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Test encoders in processes of their own: one that hangs or takes all memory costs only itself."""
    context = multiprocessing.get_context("forkserver")
    for start in range(0, len(names), 50 * workers):  # fresh processes now and then, for what timm's caches keep
        batch = names[start : start + 50 * workers]
        with context.Pool(workers) as pool:
            pending = [(name, pool.apply_async(examine, (name,))) for name in batch]
            for name, result in pending:
                try:
                    yield name, result.get(LIMIT)
                except multiprocessing.TimeoutError:
                    yield name, dict.fromkeys(WITH_ENCODER, f"takes longer than {LIMIT} s to build")
                    break  # the others of this batch come with the next start


def examine(name: str) -> dict[str, str]:
    """Test one encoder with every architecture."""
    torch.set_num_threads(1)
    with one_build_per_encoder():
        return {architecture: examine_pair(architecture, name) for architecture in WITH_ENCODER}


def examine_pair(architecture: str, encoder: str) -> str:
    """Return ✓ if a pair works at the default size, else the first size at which it does, else why it does not.

    Where every size is refused for not being a multiple of something, sizes that are decide.
    """
    first, sizes = "", list(SIZES)
    for size in sizes:
        try:
            network = outline(architecture, encoder, BANDS, CLASSES, (size, size))
        except UserError as error:
            problem: str | None = str(error).split(": ", 1)[1].removesuffix(". docs/encoders.md lists what works.")
            return first or problem or ""
        problem = trial(network, torch.empty(1, BANDS, size, size, device="meta"))
        if problem and "meta" in problem:
            problem = trial(
                build(architecture, encoder, BANDS, CLASSES, (size, size)), torch.zeros(1, BANDS, size, size)
            )
        if problem is None:
            return WORKS if size == SIZES[0] else f"{size} px"
        if multiple := re.search(r"multiples of (\d+)$", problem):
            fitting = -(-SIZES[0] // int(multiple[1])) * int(multiple[1])
            sizes += [] if fitting in sizes else [fitting]
        if not first or "multiples of" in first:
            first = problem
    return first


@contextlib.contextmanager
def one_build_per_encoder() -> Iterator[None]:
    """Give every network that asks timm for the same encoder the same modules: they have no numbers to change."""
    create = timm.create_model
    made: dict[str, Any] = {}

    def cached(*args: Any, **kwargs: Any) -> Any:
        key = repr((args, sorted(kwargs.items()), torch.get_default_device()))
        if key not in made:
            made[key] = create(*args, **kwargs)
            if kwargs.get("features_only"):
                made[key].forward = once_per_shape(made[key].forward)
        return made[key]

    norm = F.batch_norm

    def shaped(image: torch.Tensor, mean: torch.Tensor | None, *args: Any, **kwargs: Any) -> torch.Tensor:
        # torch takes a batch norm without numbers apart into a dozen steps, half of the time of all of this.
        training = kwargs.get("training", len(args) > 3 and args[3])
        if not image.is_meta or training or mean is None:
            return norm(image, mean, *args, **kwargs)
        if mean.numel() != image.shape[1]:
            raise RuntimeError(f"running_mean has {mean.numel()} channels, the image has {image.shape[1]}")
        return torch.empty_like(image)

    with patch.object(timm, "create_model", cached), patch.object(F, "batch_norm", shaped):
        yield


def once_per_shape(forward: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    """Give the features of the first image to every image of its shape, since there are no numbers in them."""
    known: dict[tuple[torch.Size, torch.device], Any] = {}

    def features(image: torch.Tensor) -> Any:
        key = (image.shape, image.device)
        if not image.is_meta:
            return forward(image)
        if key not in known:
            known[key] = forward(image)
        return known[key]

    return features


def table(found: dict[str, dict[str, str]]) -> str:
    """Write the answer as Markdown."""
    found = {name: {pair: plain(answer) for pair, answer in row.items()} for name, row in found.items()}
    causes = Counter(v for row in found.values() for v in row.values() if v != WORKS and not v.endswith(" px"))
    letters = {cause: _letters(i) for i, (cause, _) in enumerate(causes.most_common())}
    timms = {name: row for name, row in found.items() if name.startswith(TIMM)}
    names = list(WITH_ENCODER)
    lines = [
        "# Which encoder goes with which architecture",
        "",
        f"Written by `python scripts/encoders.py` on {datetime.now(UTC):%Y-%m-%d} with "
        + ", ".join(f"{name} {number}" for name, number in versions().items())
        + f". Each pair was built for {BANDS} bands and {CLASSES} classes and run on a chip of {SIZES[0]} × {SIZES[0]} "
        "px by shapes alone (torch's meta device: every layer's sizes are checked, no number is computed); "
        "`tests/test_encoders.py` runs a sample of 30 pairs with numbers.",
        "",
        f"{WORKS} works; `224 px` works with chips of this size, not with {SIZES[0]} px; a letter says why not.",
        "A timm encoder is also known by its tags (`tu-resnet18.a1_in1k`): they choose weights, not the network.",
        "",
        "## Counts",
        "",
        f"| architecture | smp's {len(found) - len(timms)} | timm's {len(timms)} |",
        "|---|---|---|",
    ]
    for architecture in names:
        counts = [
            sum(_works(row[architecture]) for n, row in found.items() if n.startswith(TIMM) == own) for own in (0, 1)
        ]
        lines.append(f"| {architecture} | {counts[0]} | {counts[1]} |")
    counts = [
        sum(any(map(_works, row.values())) for n, row in found.items() if n.startswith(TIMM) == own) for own in (0, 1)
    ]
    lines += [f"| any of them | {counts[0]} | {counts[1]} |", "", "## Why not", ""]
    lines += [f"- **{letters[cause]}** ({count}): {cause}" for cause, count in causes.most_common()]
    never = [name for name, row in found.items() if not any(map(_works, row.values()))]
    lines += ["", f"## Encoders that go with no architecture ({len(never)})", ""]
    lines += [f"- `{name}`: {_best_cause(found[name])}" for name in never]
    lines += ["", "## All pairs", "", f"| encoder | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {n} | " + " | ".join(letters.get(row[a], row[a]) for a in names) + " |" for n, row in found.items()]
    return "\n".join(lines) + "\n"


def plain(answer: str) -> str:
    """Give messages that mean the same one wording, and none the numbers of a single encoder."""
    if " px become " in answer:
        return "what comes out is smaller than the chip, its convolutions leave out the edges"
    return in_words(answer) or answer


def _works(answer: str) -> bool:
    return answer == WORKS or answer.endswith(" px")


def _best_cause(row: dict[str, str]) -> str:
    """Tell the two causes that matter: as an encoder of stages (unet) and as a plain transformer (dpt)."""
    return f"{row['unet']}; with dpt: {row['dpt']}"


def _letters(index: int) -> str:
    return (chr(ord("a") + index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


if __name__ == "__main__":
    main()
