"""Learning rate per epoch: linear warm-up, then steps."""

from bisect import bisect_right
from collections.abc import Sequence


def lr_factor(epoch: int, warmup_epochs: int, warmup_factor: float, steps: Sequence[int], gamma: float) -> float:
    """Factor of the base learning rate in `epoch` (0-based).

    The warm-up runs linearly from `warmup_factor` at epoch 0 to 1 at `warmup_epochs`; each of `steps` reached
    multiplies by `gamma`.
    """
    factor = gamma ** bisect_right(steps, epoch)
    if epoch < warmup_epochs:
        progress = epoch / warmup_epochs
        factor *= warmup_factor * (1 - progress) + progress
    return factor
