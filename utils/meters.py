"""Running means of named scalars."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Meters:
    """Adds detached scalars on their device; only `means` waits for it."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        """`state` is what `state_dict` of earlier meters returned."""
        state = state or {}
        self.names: list[str] = state.get("names", [])
        self.sums: Tensor | None = state.get("sums")  # (names,) float64
        self.count: int = state.get("count", 0)

    def update(self, scalars: dict[str, Tensor]) -> None:
        """Add one step's scalars; raises ValueError when their names are not those of the first step."""
        self.names = self.names or list(scalars)
        if set(scalars) != set(self.names):
            raise ValueError(f"{sorted(scalars)} are not {sorted(self.names)}")
        values = torch.stack([scalars[name].detach() for name in self.names]).double()
        self.sums = values if self.sums is None else self.sums.to(values.device) + values
        self.count += 1

    def means(self) -> dict[str, float]:
        """Means over the steps so far; one transfer from the device. Empty before the first step."""
        return {} if self.sums is None else dict(zip(self.names, (self.sums / self.count).tolist()))

    def state_dict(self) -> dict[str, Any]:
        """What later meters go on from."""
        return {"names": self.names, "sums": None if self.sums is None else self.sums.cpu(), "count": self.count}
