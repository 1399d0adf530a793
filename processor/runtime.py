"""Where and in which number type a run computes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from datasets.clips import Normalize
from processor.distributed import ALONE, Ranks, current_ranks
from utils.precision import amp_dtype, autocast, float32_products, has_tf32, precision_name


@dataclass(frozen=True)
class Runtime:
    """Device, number type, pixel statistics and ranks: what every pass over clips needs beside the model."""

    device: torch.device
    dtype: torch.dtype | None  # autocast type, None for float32
    normalize: nn.Module  # uint8 frames -> normalised float32, on `device`
    tf32: bool | None = None  # whether float32 products are taken in TF32; None: as torch is set
    ranks: Ranks = ALONE  # the processes that work as one

    @classmethod
    def choose(cls, amp: str, mean: Sequence[float], std: Sequence[float]) -> "Runtime":
        """The GPU when there is one, the number type that `amp` (SOLVER.AMP) means there, pixel mean and std (RGB)."""
        device = current_device()
        return cls(device, amp_dtype(amp, device), Normalize(mean, std).to(device), ranks=current_ranks())

    def with_precision(self, choice: str, key: str) -> "Runtime":
        """The same device in the number type of a pass without gradients.

        `choice`, the value of `key`, is 'tf32' (float32, with products in TF32 where the GPU has them), 'float32',
        'bf16' or 'fp16'. Raises InputError for fp16 without a GPU.
        """
        tf32 = choice == "tf32" and has_tf32(self.device)
        return replace(self, dtype=amp_dtype(choice, self.device, key), tf32=tf32)

    @property
    def precision(self) -> str:
        """The name of the number type of the forward pass."""
        return precision_name(self.dtype, bool(self.tf32))

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The forward pass runs in this context."""
        products = nullcontext() if self.tf32 is None else float32_products(self.tf32)
        with products, autocast(self.device, self.dtype):
            yield

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Scales the loss in fp16; without effect in other number types."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def move(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors on the device, without waiting for it where their memory is pinned."""
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)


def current_device() -> torch.device:
    """The GPU when there is one; CUDA_VISIBLE_DEVICES chooses it."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
