"""Weight files: read without running them, found in the caches, and missed quickly and clearly."""

from __future__ import annotations

import http.server
import pickle
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from huggingface_hub import constants

from src.errors import UserError
from src.models import imagenet, pretrained
from src.models.pretrained import aligned, hub_file, reachable, read_weights, url_file


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers, which is how it looks on a machine without network."""
    monkeypatch.setattr(pretrained, "reachable", lambda _: False)


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


STATE = {"conv1.weight": torch.ones(2, 3, 1, 1), "bn1.bias": torch.zeros(2)}


def test_files_are_read_whatever_wraps_the_tensors(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "a.safetensors")
    safetensors.torch.save_file(STATE, tmp_path / "A.SAFETENSORS")
    torch.save(STATE, tmp_path / "b.pth")
    torch.save({"epoch": 3, "state_dict": STATE}, tmp_path / "c.ckpt")
    torch.save({"model": {"state_dict": STATE}}, tmp_path / "d.pt")
    for path in sorted(tmp_path.iterdir()):
        assert {name: value.shape for name, value in read_weights(path)[0].items()} == {
            name: value.shape for name, value in STATE.items()
        }


def test_a_file_that_holds_itself_is_read_to_an_end(tmp_path: Path) -> None:
    content: dict[str, object] = {"conv1.weight": torch.ones(1)}
    content["state_dict"] = content
    torch.save(content, tmp_path / "a.pth")
    assert set(read_weights(tmp_path / "a.pth")[0]) == {"conv1.weight"}


class Malicious:
    """A pickle that would touch a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    """SpecDeepMap unpickles weights with weights_only=False: a prepared file runs its code."""
    with (tmp_path / "evil.pth").open("wb") as stream:
        pickle.dump({"conv1.weight": Malicious(tmp_path / "ran")}, stream)
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_none_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    for name, words in (
        ("missing.pth", "There is no"),
        ("broken.safetensors", "cannot be read"),
        ("empty.pth", "no tensors"),
    ):
        with pytest.raises(UserError, match=words):
            read_weights(tmp_path / name)


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "module.encoder_q.", "network.architecture.encoder."])
def test_prefixes_of_training_frameworks_are_dropped(prefix: str) -> None:
    state = {prefix + name: value for name, value in STATE.items()} | {"head.weight": torch.ones(1)}
    assert set(aligned(state, STATE, "x")) == set(STATE)


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(UserError, match=r"first layer1\.weight"):
        aligned(STATE, [*STATE, "layer1.weight"], "x")


def test_a_file_in_the_hubs_cache_needs_no_network(caches: Path) -> None:
    for revision, folder in ((None, "main"), ("3f2325ff", "3f2325ff")):
        path = caches / "hf" / "models--timm--resnet18.a1_in1k" / "snapshots" / folder / "model.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        assert hub_file("timm/resnet18.a1_in1k", ["model.safetensors"], revision) == path


def test_weights_that_cannot_be_had_end_with_the_file_and_its_place(caches: Path) -> None:
    """And putting the file there is all that it takes."""
    for encoder in ("resnet18", "tu-resnet18.a1_in1k"):
        with pytest.raises(UserError) as error:
            imagenet.locate(encoder, None)
        assert "\n" not in str(error.value)
        url, _, place = str(error.value).partition("put ")[2].partition(", or")[0].partition(" at ")
        assert url.startswith("https://huggingface.co/")
        assert url.endswith("model.safetensors")
        Path(place).parent.mkdir(parents=True)
        Path(place).write_bytes(b"x")
        assert imagenet.locate(encoder, None) == Path(place)
    url = "https://hf.co/torchgeo/x/resolve/1/resnet18-59bfdff9.pth"
    with pytest.raises(UserError, match=r"resnet18-59bfdff9\.pth at .*checkpoints"):
        url_file(url)
    (caches / "torch" / "checkpoints").mkdir(parents=True)
    (caches / "torch" / "checkpoints" / "resnet18-59bfdff9.pth").write_bytes(b"x")
    assert url_file(url).read_bytes() == b"x"


def test_weights_that_do_not_exist_are_one_line() -> None:
    with pytest.raises(UserError, match=r"weights\.name=imagenet or ssl or swsl"):
        imagenet.locate("resnet18", "noisy-student")
    with pytest.raises(UserError, match="publishes no weights"):
        imagenet.locate("tu-vit_giant_patch14_224", None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve a weights file on this machine."""
    (tmp_path / "www").mkdir()
    torch.save(STATE, tmp_path / "www" / "model.pth")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *a: Quiet(*a, directory=str(tmp_path / "www"))
    ) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.mark.usefixtures("caches")
def test_a_file_is_downloaded_once(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert reachable(server)
    monkeypatch.setattr(pretrained, "reachable", reachable)
    path = url_file(f"{server}/model.pth")
    assert set(read_weights(path)[0]) == set(STATE)
    monkeypatch.setattr(pretrained, "reachable", lambda _: False)
    assert url_file(f"{server}/model.pth") == path
    with pytest.raises(UserError, match="put "):
        url_file(f"{server}/other.pth")


def test_a_server_that_is_not_there_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    knocked, ended = list[tuple[str, int]](), threading.Event()

    def knock(address: tuple[str, int], timeout: float) -> None:
        assert timeout == 0.5
        knocked.append(address)
        if address[1] == 80:
            raise ConnectionRefusedError
        ended.wait(60)  # as the look-up of a name may take, whatever the timeout
        raise socket.gaierror

    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(pretrained, "_PATIENCE", 0.5)
    monkeypatch.setattr(socket, "create_connection", knock)
    began = time.monotonic()
    assert not reachable("http://weights.invalid")
    assert not reachable("https://weights.invalid")
    assert knocked == [("weights.invalid", 80), ("weights.invalid", 443)]
    assert time.monotonic() - began < 30
    ended.set()
