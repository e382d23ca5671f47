"""What this machine computes on and in: the one place that asks torch about hardware."""

import contextlib
import ctypes
from typing import Any

import torch

from pupila._workers import usable_cores
from pupila.recipe import Recipe

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_memory() -> None:
    """Have glibc keep freed memory for the next step: a tenth faster on a CPU, see docs/experiments.md.

    Otherwise each step gives its activations back to the system, and then has them zeroed page by page again.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing is lost
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def usable_threads() -> int:
    """Return torch's number of threads, but no more than the CPU quota feeds: more would wait for each other."""
    return min(torch.get_num_threads(), usable_cores())


def pick_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(recipe: Recipe, device: torch.device) -> str:
    """Resolve `auto`: bfloat16 where the hardware multiplies in it (about twice as fast), else float32.

    Of CPUs that are those with AVX512-BF16 or AMX; on others it is emulated and slower than float32.
    """
    if recipe.precision != "auto":
        return recipe.precision
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    cpu_is_fast = known.get("avx512_bf16") or known.get("amx_bf16")
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_is_fast
    return "bfloat16" if fast else "float32"


def autocast(recipe: Recipe, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Context in which convolutions and matrix products run at the recipe's precision; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision(recipe, device) == "bfloat16")
