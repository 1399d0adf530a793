"""Running means of named scalars."""

import torch
from torch import Tensor


class Meters:
    """Adds detached scalars on their device; only `means` waits for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def update(self, scalars: dict[str, Tensor]) -> None:
        """Add one step's scalars."""
        for name, value in scalars.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()
        self.count += 1

    def means(self) -> dict[str, float]:
        """Means over the steps so far; one transfer from the device. Empty before the first step."""
        if not self.count:
            return {}
        values = (torch.stack(list(self.sums.values())) / self.count).tolist()
        return dict(zip(self.sums, values))
