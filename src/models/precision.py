"""On which device a network runs, and with which numbers: one decision for training, evaluation and mapping."""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import nn

from src.errors import UserError
from src.memory import keep_memory, use_large_pages
from src.models.network import Network
from src.models.threads import computing_with

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
"""What the key ``accelerator`` takes; ``gpu`` is whichever the machine has, ``auto`` falls back to the CPU."""

_SIDE, _RUNS = 512, 6
"""Of the matrices that are multiplied, and how often, to see which precision is faster."""
_Module = TypeVar("_Module", bound=nn.Module)


def choose_device(accelerator: str = "auto") -> torch.device:
    """Turn the key ``accelerator`` into a device.

    Args:
        accelerator: One of ACCELERATORS.

    Raises:
        UserError: There is no such word, or no such device in this machine.
    """
    if accelerator not in ACCELERATORS:
        raise UserError(
            f"accelerator={accelerator} is not known; expected one of {', '.join(ACCELERATORS)}. auto always works."
        )
    if accelerator == "cpu":
        return torch.device("cpu")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if cuda and accelerator != "mps":
        return torch.device("cuda", torch.cuda.current_device())
    if mps and accelerator != "cuda":
        return torch.device("mps")
    if accelerator == "auto":
        return torch.device("cpu")
    raise UserError(
        f"accelerator={accelerator}, but PyTorch {torch.__version__} finds no such device here; expected a usable "
        "GPU and its driver. Use accelerator=auto or accelerator=cpu."
    )


def arrange_memory(device: torch.device) -> None:
    """Let this process take memory as suits networks that only answer, on a device; call before any tensor is made."""
    if device.type == "cpu":
        keep_memory()
    else:
        use_large_pages()


def prefers_bf16(device: torch.device) -> bool:
    """Tell whether the device multiplies bfloat16 natively, and a CPU faster than float32; else float32 is taken."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16")) and _bf16_pays()
    return False


@functools.cache
def _bf16_pays() -> bool:
    """Time a product of two matrices in either precision, once in a process; it takes 30 ms.

    AMD's AVX-512 BF16 and Intel's AMX are twice as fast as float32 and more, Intel's AVX-512 BF16 without AMX, which is
    what many virtual machines have, takes nearly twice as long: nothing that it declares tells them apart. A thread's
    own time does not depend on who else computes, and the shortest of several runs hardly on what else happens.
    """
    with ThreadPoolExecutor(1) as pool:  # whose time is its own
        return pool.submit(_faster_in_bf16).result()


@torch.inference_mode()
def _faster_in_bf16() -> bool:
    matrix = torch.ones(_SIDE, _SIDE)
    with computing_with(1), torch.autocast("cpu", enabled=False):
        times = [(_seconds(matrix), _seconds(matrix.bfloat16())) for _ in range(_RUNS)]
    single, half = (min(column) for column in zip(*times, strict=True))
    return bool(half < single)


def _seconds(matrix: torch.Tensor) -> float:
    began = time.thread_time()
    torch.mm(matrix, matrix)
    return time.thread_time() - began


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Context in which a network's forward pass runs: bfloat16 where the device prefers it, else float32.

    Weights stay float32. Logits may come out as bfloat16: turn them into float32 before a softmax or a loss.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=prefers_bf16(device))


def place(network: _Module, device: torch.device) -> _Module:
    """Move a network to its device, weights channels last: convolutions are faster so, in float32 too."""
    network.to(memory_format=torch.channels_last)
    network.to(device)
    return network


def check_compiler(device: torch.device) -> None:
    """Compile something small, which takes seconds, to find out before a long training whether that works here.

    Raises:
        UserError: PyTorch misses a compiler, or does not support this device.
    """
    try:
        torch.compile(torch.nn.functional.softplus)(torch.zeros(8, device=device))
    except Exception as error:  # whatever PyTorch's compilers miss
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise UserError(
            f"compile=true does not work here: {reason}. PyTorch needs a C++ compiler for it (g++ or clang++), on GPUs "
            "Triton as well; install it, or leave compile=true out."
        ) from error


def training_layout(device: torch.device, precision: str) -> torch.memory_format:
    """Choose how images and kernels lie in memory in training: channels last, with one exception.

    In float32 on a CPU with AVX2 only, backward passes are slower that way: a step of a U-Net with resnet18 takes 8 %
    less time channels first (one of a SegFormer with a ConvNeXt 3 % more).

    Args:
        device: Where the network is trained.
        precision: Lightning's name of it.
    """
    only_avx2 = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.contiguous_format if only_avx2 and precision == "32-true" else torch.channels_last


def precision_name(device: torch.device, network: Network) -> str:
    """How a log line calls what a network computes with there: ``bfloat16`` or ``float32``."""
    return "bfloat16" if prefers_bf16(device) and not network.full_precision else "float32"
