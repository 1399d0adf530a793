"""Mixed precision: which number type the forward pass uses."""

import torch

from utils.errors import InputError


def amp_dtype(choice: str, device: torch.device) -> torch.dtype | None:
    """The autocast type for SOLVER.AMP 'auto' | 'bf16' | 'fp16' | 'off', or None for float32.

    auto: bf16 where the GPU has it, else fp16; off on the CPU. Raises InputError for fp16 without a GPU.
    """
    on_gpu = device.type == "cuda"
    if choice == "off" or (choice == "auto" and not on_gpu):
        return None
    if choice == "fp16" and not on_gpu:
        raise InputError("SOLVER.AMP fp16 needs a GPU; on the CPU use off or bf16")
    if choice == "bf16" or (choice == "auto" and torch.cuda.is_bf16_supported(including_emulation=False)):
        return torch.bfloat16
    return torch.float16


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Autocast to `dtype`, or a context without effect when it is None."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def precision_name(dtype: torch.dtype | None) -> str:
    """'float32', 'bfloat16' or 'float16' of what `amp_dtype` returned."""
    return str(dtype or torch.float32).removeprefix("torch.")
