"""Where and in which number type a run computes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datasets.clips import Normalize
from utils.precision import amp_dtype, autocast, precision_name


@dataclass(frozen=True)
class Runtime:
    """Device, number type and pixel statistics: what every pass over clips needs beside the model."""

    device: torch.device
    dtype: torch.dtype | None  # autocast type, None for float32
    normalize: nn.Module  # uint8 frames -> normalised float32, on `device`

    @classmethod
    def choose(cls, amp: str, mean: Sequence[float], std: Sequence[float]) -> "Runtime":
        """The GPU when there is one, the number type that `amp` (SOLVER.AMP) means there, pixel mean and std (RGB)."""
        device = current_device()
        return cls(device, amp_dtype(amp, device), Normalize(mean, std).to(device))

    @property
    def precision(self) -> str:
        """The name of the number type of the forward pass."""
        return precision_name(self.dtype)

    def autocast(self) -> torch.autocast:
        """The forward pass runs in this context."""
        return autocast(self.device, self.dtype)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Scales the loss in fp16; without effect in other number types."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def move(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors on the device, without waiting for it where their memory is pinned."""
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)


def current_device() -> torch.device:
    """The GPU when there is one; CUDA_VISIBLE_DEVICES chooses it."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
