"""P x K batches of tracklets with an exact length."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from utils.errors import InputError

Draw = tuple[int, int]  # (tracklet index, seed of its frames and augmentation)


class IdentitySampler(Sampler[list[Draw]]):
    """Batches of P identities x K tracklets.

    Each identity's tracklets are shuffled and cut into groups of K; an identity with fewer than K gives K draws with
    replacement; leftovers are dropped. A batch takes the next group of P random identities, until fewer than P have
    one. `set_epoch` draws the batches of an epoch from a generator seeded by (seed, epoch), so `len()` is exact and an
    epoch is the same whatever came before it. Only the `share` of each batch is handed out.
    """

    def __init__(
        self, pids: Sequence[int], batch_size: int, tracklets_per_identity: int, seed: int, share: slice = slice(None)
    ) -> None:
        if batch_size < 1 or batch_size % tracklets_per_identity:
            raise InputError(
                f"SOLVER.IMS_PER_BATCH {batch_size} must be divisible by DATALOADER.NUM_INSTANCE "
                f"{tracklets_per_identity}"
            )
        self.identities_per_batch = batch_size // tracklets_per_identity
        self.tracklets_per_identity = tracklets_per_identity
        self.batch_size = batch_size
        self.seed = seed
        self.share = share
        self.rows_of: dict[int, list[int]] = defaultdict(list)
        for row, pid in enumerate(pids):
            self.rows_of[pid].append(row)
        if len(self.rows_of) < self.identities_per_batch:
            raise InputError(
                f"the training set has {len(self.rows_of)} identities, fewer than the {self.identities_per_batch} of a "
                f"batch (SOLVER.IMS_PER_BATCH {batch_size} / DATALOADER.NUM_INSTANCE {tracklets_per_identity}); "
                "lower SOLVER.IMS_PER_BATCH"
            )
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Draw the `batches` of `epoch` (0-based), of which the first `start` are not handed out."""
        self.start, self.batches = start, self._draw(epoch)

    def batches_before(self, epoch: int) -> int:
        """The number of batches of all epochs before `epoch` (0-based)."""
        return sum(len(self._draw(earlier)) for earlier in range(epoch))

    def _draw(self, epoch: int) -> list[list[Draw]]:
        rng = random.Random(f"{self.seed}/{epoch}")
        groups = {pid: self._groups(rows, rng) for pid, rows in sorted(self.rows_of.items())}
        batches: list[list[Draw]] = []
        available = list(groups)
        while len(available) >= self.identities_per_batch:
            chosen = rng.sample(available, self.identities_per_batch)
            rows = [row for pid in chosen for row in groups[pid].pop(0)]
            batches.append([(row, rng.getrandbits(63)) for row in rows])
            available = [pid for pid in available if groups[pid]]
        return batches

    def _groups(self, rows: list[int], rng: random.Random) -> list[list[int]]:
        size = self.tracklets_per_identity
        if len(rows) < size:
            return [rng.choices(rows, k=size)]
        shuffled = rng.sample(rows, len(rows))
        return [shuffled[start : start + size] for start in range(0, len(rows) - size + 1, size)]

    def __iter__(self) -> Iterator[list[Draw]]:
        return (batch[self.share] for batch in self.batches[self.start :])

    def __len__(self) -> int:
        return len(self.batches) - self.start
