"""Ranks: the processes that torchrun starts, and that train or test as one.

The batch of a step is drawn as for one process and cut over the ranks. B clips, b of them on this rank.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import InputError, LostProcessError
from utils.interrupt import interrupt_requested, keep_quiet, last_signal, request_stop
from utils.logger import mute, unmute

T = TypeVar("T")
_PATIENCE = timedelta(hours=12)  # the others wait while rank 0 ranks or learns prompts; a lost rank is noticed sooner
_FAILURE = "failure"  # key of the store: exit code of the first rank that failed
_STOP = "stop"  # key of the store: a rank has got a signal within a pass
_POLL = 0.5  # seconds
_HEAD_START = 2.0  # seconds in which rank 0 reports what all ranks find at once


@dataclass(frozen=True)
class Ranks:
    """This process among `size` that work as one; alone by default, and then nothing is sent."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The part of `count` rows in a row that is this rank's; parts differ by one row at most."""
        return slice(*self._bounds(count)[self.rank : self.rank + 2])

    def deal(self, count: int) -> range:
        """Every `size`-th of `count` rows, which gives the ranks tracklets of all lengths."""
        return range(self.rank, count, self.size)

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """The rows (b, ...) of all ranks, cut by `share`, in order: (B, ...), B = `count`.

        Every rank is taken to compute the same loss from the result. Its gradient goes to the rank's own rows, times
        `size`: DistributedDataParallel averages, and the gradients of the ranks' rows are to be added.
        """
        if self.size == 1:
            return rows
        bounds = self._bounds(count)
        return _Gather.apply(rows, [end - start for start, end in zip(bounds, bounds[1:])], self)

    def join(self, dealt: Tensor | None, count: int) -> Tensor:
        """The rows (n, F) of all ranks, dealt out by `deal`, in their places: (count, F) on the CPU.

        None stands for no row at all.
        """
        if self.size == 1:
            return dealt.cpu()
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, None if dealt is None else dealt.cpu())
        joined = torch.empty(count, *next(part for part in parts if part is not None).shape[1:])
        for rank, part in enumerate(parts):
            if part is not None:
                joined[rank :: self.size] = part
        return joined

    def collect(self, item: T) -> list[T]:
        """The items of all ranks, on all ranks."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0, the only one that calls it; an error there ends all ranks."""
        if self.size == 1:
            return work()
        result = [work() if self.is_main else None]
        dist.broadcast_object_list(result, src=0)
        return result[0]

    def share_weights(self, model: nn.Module) -> None:
        """Give the model of every rank the weights of rank 0."""
        for tensor in model.state_dict().values() if self.size > 1 else ():
            dist.broadcast(tensor, src=0)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 goes first, then the first rank of each other machine, then the rest.

        Whoever comes first unpacks or cuts what the others find in the cache.
        """
        turn = 0 if self.is_main else 1 if self.local_rank == 0 else 2
        for _ in range(turn):
            self._meet()
        yield
        for _ in range(turn, 2):
            self._meet()

    def told_to_stop(self) -> bool:
        """Whether a rank has got a signal to stop; a point that all ranks reach, and all hear the same."""
        if self.size == 1:
            return interrupt_requested()
        number = torch.tensor(last_signal() if interrupt_requested() else 0)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        if number:
            request_stop(int(number))
        return bool(number)  # not what this rank has heard since it was asked

    def check_stop(self) -> None:
        """A safe point that all ranks reach: raise KeyboardInterrupt on all when one was told to stop."""
        if self.told_to_stop():
            raise KeyboardInterrupt

    def told_to_stop_within_pass(self) -> bool:
        """The same at a point that this rank may reach more often than others; after the pass comes `check_stop`."""
        if self.size > 1 and interrupt_requested():
            _connection.store.set(_STOP, "")
        return interrupt_requested() or (self.size > 1 and _connection.store.check([_STOP]))

    def parallel(self, compute: Callable, modules: Sequence[nn.Module | None]) -> Callable:
        """`compute`, whose backward pass averages the gradients of `modules` over the ranks while it goes on.

        The result has `no_sync` of DistributedDataParallel. Modules without a trained parameter stay as they are.
        """
        part = _Part(compute, modules)
        if self.size == 1 or not any(parameter.requires_grad for parameter in part.parameters()):
            return compute
        devices = [torch.cuda.current_device()] if next(part.parameters()).is_cuda else None
        return DistributedDataParallel(part, device_ids=devices, gradient_as_bucket_view=True)

    def _bounds(self, count: int) -> list[int]:
        return [rank * count // self.size for rank in range(self.size + 1)]

    def _meet(self) -> None:
        if self.size > 1:
            dist.all_reduce(torch.zeros(()))


ALONE = Ranks()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], ranks: Ranks) -> Tensor:
        ctx.counts, ctx.ranks = counts, ranks
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        own = grad.split(ctx.counts)[ctx.ranks.rank]
        return own * ctx.ranks.size, None, None


class _Part(nn.Module):
    """A function of the network with the modules whose parameters it reads."""

    def __init__(self, compute: Callable, modules: Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.read = nn.ModuleList(module for module in modules if module is not None)
        self.compute = compute

    def forward(self, *inputs: Any) -> Any:
        """What `compute` returns."""
        return self.compute(*inputs)


class _Connection(NamedTuple):
    ranks: Ranks
    store: dist.Store
    watch: threading.Thread  # runs `_end_with_the_others`


_connection: _Connection | None = None


def current_ranks() -> Ranks:
    """The ranks of this process: those that `connect` joined, or one."""
    return _connection.ranks if _connection else ALONE


def run_joined(work: Callable[[], None]) -> None:
    """Run `work` on all ranks that torchrun has started; raises LostProcessError when one of them was lost."""
    try:
        connect()
        work()
        disconnect()
    except RuntimeError as error:
        if isinstance(error, InputError) or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        time.sleep(2 * _HEAD_START)  # a rank that can say why it has gone says so meanwhile
        raise LostProcessError(
            "another rank was lost, perhaps killed for want of memory; torchrun's report names it. Lower "
            "DATALOADER.NUM_WORKERS (of each rank), then go on with --resume auto"
        ) from error


def connect() -> None:
    """Join the ranks that torchrun has started: NCCL for tensors on GPUs, gloo for all else.

    The ranks other than 0 print nothing. A rank that fails tells the others through torchrun's store, and they end
    with its exit code. Raises InputError for more ranks than GPUs on a machine that has any.
    """
    global _connection
    ranks = Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if not ranks.is_main:
        mute()
        keep_quiet()
        sys.stdout = open(os.devnull, "w")  # for --help and results
    store, _, _ = next(dist.rendezvous("env://", timeout=_PATIENCE))
    shared = dist.PrefixStore("tf-clip", store.clone())  # a connection of its own, which nobody else waits on
    _connection = _Connection(ranks, shared, threading.Thread(target=_end_with_the_others, args=(shared,), daemon=True))
    _connection.watch.start()
    if torch.cuda.is_available():
        if ranks.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"torchrun has started more processes than there are GPUs on {socket.gethostname()} "
                f"({torch.cuda.device_count()}): lower --nproc_per_node, or mend CUDA_VISIBLE_DEVICES"
            )
        torch.cuda.set_device(ranks.local_rank)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=_PATIENCE)


def disconnect() -> None:
    """Leave the group once all ranks are done."""
    global _connection
    _connection.ranks._meet()
    _silenced.set()
    _connection.watch.join()
    dist.destroy_process_group()
    _connection = None


def may_report(code: int) -> bool:
    """Whether this rank is the one that says why the run ends with exit code `code`.

    The first error is the cause; those of other ranks follow from it. What all find at once, as a signal to stop, is
    said by rank 0.
    """
    if _connection is None:
        return True
    ranks, store, _ = _connection
    if not ranks.is_main:
        time.sleep(_HEAD_START)  # `_end_with_the_others` ends this process meanwhile when rank 0 has failed
    first = store.add(f"{_FAILURE}s", 1) == 1
    if first:
        _silenced.set()
        store.set(_FAILURE, str(code))
        unmute(f"rank {ranks.rank} on {socket.gethostname()}: " if not ranks.is_main else "")
    else:
        time.sleep(2 * _POLL)
    return first


_silenced = threading.Event()  # this process ends by itself


def _end_with_the_others(store: dist.Store) -> None:
    """Wait for the failure of another rank, and end this process with its exit code.

    A rank that waits for a message of a lost one would not notice a signal.
    """
    while not _silenced.wait(_POLL):
        try:
            if store.check([_FAILURE]):
                os._exit(int(store.get(_FAILURE)))
        except RuntimeError:  # torchrun itself has gone, and will have ended this process
            return
