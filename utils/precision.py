"""Number types of a forward pass: what autocast computes in, and how float32 products are rounded."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.errors import InputError

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FIRST_WITH_TF32 = (8, 0)  # compute capability


def amp_dtype(choice: str, device: torch.device, key: str = "SOLVER.AMP") -> torch.dtype | None:
    """The autocast type for 'auto' | 'bf16' | 'fp16', or None, float32, for any other word.

    auto: bf16 where the GPU has it, else fp16; float32 on the CPU. Raises InputError for fp16 without a GPU.
    """
    on_gpu = device.type == "cuda"
    if choice == "auto" and on_gpu:
        choice = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if choice == "fp16" and not on_gpu:
        raise InputError(f"{key} fp16 needs a GPU; bf16 works on the CPU too")
    return _AUTOCAST.get(choice)


def has_tf32(device: torch.device) -> bool:
    """Whether the device can take float32 products in TF32 (10 bits of mantissa, sums in float32)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FIRST_WITH_TF32


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Autocast to `dtype`, or a context without effect when it is None."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Within, a GPU takes the products of float32 matrices and convolutions in TF32, or in full float32.

    Nothing within may ask for torch's older switches (`allow_tf32`), which raise while these are set.
    """
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        for setting, value in zip(settings, before):
            setting.fp32_precision = value


def precision_name(dtype: torch.dtype | None, tf32: bool = False) -> str:
    """'float32', 'tf32', 'bfloat16' or 'float16'; `dtype` is what `amp_dtype` returned."""
    if dtype is None:
        return "tf32" if tf32 else "float32"
    return str(dtype).removeprefix("torch.")
