"""Devices and numbers: what is chosen where, and that it is said when it cannot be."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from src.errors import UserError
from src.models import precision

CPU = torch.device("cpu")


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps"])
def test_an_absent_gpu_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, accelerator: str) -> None:
    no_gpu(monkeypatch)
    with pytest.raises(UserError, match=rf"accelerator={accelerator}, .*accelerator=cpu"):
        precision.choose_device(accelerator)


def test_auto_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    assert precision.choose_device("auto") == CPU


def test_auto_and_gpu_take_the_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [precision.choose_device(word).type for word in ("auto", "gpu", "mps")] == ["mps"] * 3


def test_an_unknown_accelerator_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="tpu is not known; expected one of auto, cpu, gpu, cuda, mps"):
        precision.choose_device("tpu")


@pytest.mark.parametrize(
    ("device", "capability", "name", "expected"),
    [
        ("cpu", "AVX2", "32-true", torch.contiguous_format),
        ("cpu", "AVX2", "bf16-mixed", torch.channels_last),
        ("cpu", "AVX512", "32-true", torch.channels_last),
        ("cuda", "AVX2", "32-true", torch.channels_last),
    ],
)
def test_training_lays_out_memory_as_backward_passes_want_it(
    monkeypatch: pytest.MonkeyPatch, device: str, capability: str, name: str, expected: torch.memory_format
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert precision.training_layout(torch.device(device), name) is expected


@pytest.mark.parametrize(
    ("flags", "faster", "expected"),
    [
        ({"avx512_bf16": True}, True, True),
        ({"amx_bf16": True}, True, True),
        ({"avx512_bf16": True}, False, False),
        ({}, True, False),
    ],
)
def test_bfloat16_only_where_the_cpu_has_instructions_for_it_that_pay(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool], faster: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    monkeypatch.setattr(precision, "_bf16_pays", lambda: faster)
    assert precision.prefers_bf16(CPU) is expected
    layer = precision.place(nn.Conv2d(3, 4, 3), CPU)
    with precision.autocast(CPU):
        result = layer(torch.zeros(1, 3, 8, 8))
    assert result.dtype is (torch.bfloat16 if expected else torch.float32)
    assert layer.weight.dtype is torch.float32
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("half", "expected"), [(0.5, True), (1.9, False)])
def test_bfloat16_pays_where_its_products_take_less_of_a_thread_s_own_time(
    monkeypatch: pytest.MonkeyPatch, half: float, expected: bool
) -> None:
    """The clock is made up; a first product of each that takes long, or a busy moment, decides nothing."""
    clock, product, threads = 0.0, torch.mm, []

    def multiply(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        nonlocal clock
        clock += (half if one.dtype is torch.bfloat16 else 1.0) * (10 if len(threads) in (0, 1, 4, 7) else 1)
        threads.append(torch.get_num_threads())
        return product(one, other)

    monkeypatch.setattr(precision.time, "thread_time", lambda: clock)
    monkeypatch.setattr(torch, "mm", multiply)
    precision._bf16_pays.cache_clear()
    before = torch.get_num_threads()
    try:
        assert precision._bf16_pays() is expected
        assert precision._bf16_pays() is expected
        assert threads == [1] * 2 * precision._RUNS, "asked once, and on one thread"
    finally:
        precision._bf16_pays.cache_clear()
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before


def test_a_missing_compiler_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*_: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(torch, "compile", lambda _: compiled)
    with pytest.raises(UserError, match=r"compiler found\. PyTorch needs .*g\+\+.* leave compile=true out") as caught:
        precision.check_compiler(CPU)
    assert "\n" not in str(caught.value)
