"""What each rank of three finds when they exchange rows: torchrun --nproc_per_node 3 collectives.py"""

import os
import signal
import sys

import torch

from processor.distributed import current_ranks, run_joined
from utils.interrupt import deferred_interrupts


def check_gather(count: int) -> None:
    """The rows of all ranks come in order; the gradient of a sum over ranks of equal losses comes back, times size."""
    ranks = current_ranks()
    whole = torch.arange(count * 2, dtype=torch.float64).view(count, 2)
    rows = whole[ranks.share(count)].clone().requires_grad_()
    gathered = ranks.gather(rows, count)
    assert torch.equal(gathered, whole)
    (gathered * whole.square()).sum().backward()
    assert torch.equal(rows.grad, ranks.size * whole.square()[ranks.share(count)])


def check_join(count: int) -> None:
    """Rows that were dealt out come back to their places, also where a rank has none."""
    ranks = current_ranks()
    whole = torch.arange(count, dtype=torch.float32)[:, None]
    mine = whole[list(ranks.deal(count))]
    assert torch.equal(ranks.join(mine if len(mine) else None, count), whole)


def work() -> None:
    """All checks."""
    ranks = current_ranks()
    assert ranks.size == 3
    for count in (3, 7, 9):
        check_gather(count)
    for count in (1, 3, 8):
        check_join(count)
    assert ranks.on_main(lambda: ranks.rank) == 0
    assert ranks.collect(ranks.rank) == [0, 1, 2]
    linear = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(linear.weight, ranks.rank + 5)
    ranks.share_weights(linear)
    assert torch.equal(linear.weight, torch.full((2, 2), 5.0))
    with deferred_interrupts():
        assert not ranks.told_to_stop()
        if ranks.rank == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        while not ranks.told_to_stop_within_pass():
            pass
        assert ranks.told_to_stop()
    print(f"rank {ranks.rank} is through", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_joined(work)
