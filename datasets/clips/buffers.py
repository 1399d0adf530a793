"""Memory for whole batches, shared with the worker processes that fill it and used again when a batch is dropped.

Fresh memory costs a page fault for every 4 KiB, in the worker and once more in the process that receives it; on virtual
machines that can be as slow as decoding. A slot of this memory is used for one batch after the other: a worker takes a
free slot, fills it and sends only its number; the receiver makes a tensor of it, and the slot is free again when the
last tensor on that memory is gone.
"""

import itertools
import math
import mmap
import multiprocessing
import weakref
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data.dataloader import _BaseDataLoaderIter

from datasets.clips.workers import WatchedWorkers

_keys = itertools.count()
_open_here: "weakref.WeakValueDictionary[int, BatchBuffers]" = weakref.WeakValueDictionary()


class BatchBuffers:
    """Slots of `slot_bytes`, `per_worker` for each of `workers` processes; 0 workers: for this process.

    Worker processes must be forked after this was made; they inherit the memory.
    """

    def __init__(self, workers: int, per_worker: int, slot_bytes: int) -> None:
        slots = max(1, workers) * per_worker
        self.per_worker = per_worker
        self.slot_bytes = slot_bytes
        self.start = math.ceil(slots / mmap.PAGESIZE) * mmap.PAGESIZE  # of the first slot, behind the flags
        self.memory = mmap.mmap(-1, self.start + slots * slot_bytes)
        # One flag per slot: its worker alone sets it, the receiver alone clears it, so that no lock is needed.
        self.taken = np.frombuffer(self.memory, np.uint8, slots)
        self.key = next(_keys)
        _open_here[self.key] = self

    def __reduce__(self) -> tuple:
        return type(None), ()  # a process that did not inherit the memory has no buffers

    def take(self, nbytes: int) -> int | None:
        """Take a free slot of this process; None when all are in use or too small."""
        info = get_worker_info()
        first = self.per_worker * (info.id if info else 0)
        if nbytes <= self.slot_bytes:
            for slot in range(first, min(first + self.per_worker, len(self.taken))):
                if not self.taken[slot]:
                    self.taken[slot] = 1
                    return slot
        return None

    def array(self, slot: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The memory of a slot as an array of `shape`."""
        start = self.start + slot * self.slot_bytes
        return np.frombuffer(self.memory, np.uint8, math.prod(shape), start).reshape(shape)

    def tensor(self, slot: int, shape: tuple[int, ...]) -> Tensor:
        """The filled slot as a tensor of `shape`; it is free once this tensor and all views of it are gone."""
        array = self.array(slot, shape)
        # The tensor's storage holds this very array, so the array lives as long as any view of the tensor.
        weakref.finalize(array, _clear, self.taken, slot).atexit = False
        return torch.from_numpy(array)


def _clear(taken: NDArray[np.uint8], slot: int) -> None:
    taken[slot] = 0


class _SentSlot:
    """A filled slot that a worker sends: the receiver unpickles it as the tensor (B, T, 3, H, W)."""

    def __init__(self, key: int, slot: int, shape: tuple[int, ...]) -> None:
        self.content = key, slot, shape

    def __reduce__(self) -> tuple:
        return _unpack, self.content


def _unpack(key: int, slot: int, shape: tuple[int, ...]) -> Tensor:
    return channels_first(_open_here[key].tensor(slot, shape))


class Batch:
    """Memory (B, T, H, W, 3) of one batch of clips: fill `frames_NHW3` (N = B x T), then call `finish`."""

    def __init__(self, clips: int, clip_length: int, height: int, width: int, buffers: BatchBuffers | None) -> None:
        self.shape = (clips, clip_length, height, width, 3)
        self.buffers = buffers
        self.slot = None if buffers is None else buffers.take(math.prod(self.shape))
        array = np.empty(self.shape, np.uint8) if self.slot is None else buffers.array(self.slot, self.shape)
        self.frames_NHW3 = array.reshape(-1, height, width, 3)

    def finish(self) -> Tensor:
        """The clips as uint8 (B, T, 3, H, W), channels last in memory; in a worker an object that unpickles to them."""
        if self.slot is None:
            return channels_first(torch.from_numpy(self.frames_NHW3).view(self.shape))
        if get_worker_info() is None:
            return channels_first(self.buffers.tensor(self.slot, self.shape))
        return _SentSlot(self.buffers.key, self.slot, self.shape)


class _SentNumbers:
    """Numbers that a worker sends: the receiver unpickles them as a tensor (n,).

    torch would send a tensor through a file and a connection of its own, which costs the receiver half a millisecond.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self.numbers = list(numbers)

    def __reduce__(self) -> tuple:
        return torch.tensor, (self.numbers,)


def numbers(values: Iterable[int]) -> Tensor:
    """The values as a tensor (n,); in a worker an object that unpickles to it."""
    return torch.tensor(list(values)) if get_worker_info() is None else _SentNumbers(values)


def channels_first(clips_BTHW3: Tensor) -> Tensor:
    """A view (B, T, 3, H, W)."""
    return clips_BTHW3.permute(0, 1, 4, 2, 3)


class WithBadFrames(NamedTuple):
    """A batch in which unreadable frames were replaced, as a data set gives it to its loader."""

    batch: tuple
    faults: dict[str, str]  # path -> what is wrong with the file, in one line


class ClipLoader(DataLoader):
    """A DataLoader of whole batches of clips that gives its data set `buffers`, which live as long as its workers.

    The data set names the bytes of its largest batch `batch_bytes`; unreadable frames are noted in its `bad_frames`,
    None where they are an error. Raises LostProcessError as `WatchedWorkers` does.
    """

    def __iter__(self) -> Iterator:
        batches = self._batches()
        return batches if self.dataset.bad_frames is None else self._noting_bad_frames(batches)

    def _noting_bad_frames(self, batches: Iterator) -> Iterator:
        for batch in batches:
            if isinstance(batch, WithBadFrames):
                self.dataset.bad_frames.add(batch.faults)
                batch = batch.batch
            yield batch

    def _batches(self) -> Iterator:
        if self.persistent_workers and self._iterator is not None:
            return super().__iter__()  # the workers of the first pass, with the memory that they inherited
        self.dataset.buffers = buffers = self._buffers()
        iterator = super().__iter__()
        iterator.clip_buffers = buffers  # kept as long as batches may still arrive
        if self.num_workers:
            self.dataset.buffers = None  # the workers have inherited it; this process frees it with the iterator
        return iterator

    def _get_iterator(self) -> _BaseDataLoaderIter:
        return WatchedWorkers(self) if self.num_workers else super()._get_iterator()

    def _buffers(self) -> BatchBuffers | None:
        context = self.multiprocessing_context or multiprocessing
        if self.num_workers and context.get_start_method() != "fork":
            return None  # nothing is inherited; torch copies each batch into memory of its own
        # Batches that a worker has ready, one that it fills, and one that the receiver still holds.
        per_worker = (self.prefetch_factor or 1) + 2
        try:
            return BatchBuffers(self.num_workers, per_worker, self.dataset.batch_bytes)
        except OSError:  # the system grants no such memory; each batch has memory of its own
            return None
