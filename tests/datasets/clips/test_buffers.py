"""Recycled buffers of batches: a slot is used again once no tensor views it any more, and not before."""

import gc
import mmap
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from datasets import build_test_loader, build_train_loader, configured_splits
from datasets.clips.buffers import Batch, BatchBuffers, ClipLoader
from tests.conftest import tiny_cfg

SHAPE = (2, 3, 4, 5, 3)  # clips, frames, height, width, colours
BYTES = 2 * 3 * 4 * 5 * 3


def batch_of(buffers: BatchBuffers | None, value: int, clips: int = 2) -> Batch:
    batch = Batch(clips, 3, 4, 5, buffers)
    batch.frames_NHW3[...] = value
    return batch


def test_a_batch_is_seen_as_clips_of_frames_with_channels_first():
    for buffers in (None, BatchBuffers(0, 2, BYTES)):
        batch = batch_of(buffers, 0)
        batch.frames_NHW3[4, 1, 2] = (7, 8, 9)  # frame 4 is the second of the second clip
        clips = batch.finish()
        assert clips.shape == (2, 3, 3, 4, 5) and clips.dtype == torch.uint8
        assert clips[1, 1, :, 1, 2].tolist() == [7, 8, 9] and clips.sum() == 24


def test_a_slot_is_free_again_when_the_last_view_of_its_tensor_is_gone():
    buffers = BatchBuffers(0, 2, BYTES)
    first = batch_of(buffers, 1).finish()
    second = batch_of(buffers, 2).finish()
    assert buffers.taken.tolist() == [1, 1]
    third = batch_of(buffers, 3).finish()  # no slot is left: memory of its own
    assert [clips.unique().tolist() for clips in (first, second, third)] == [[1], [2], [3]]
    view, pixels = first[1, :, 0], second.numpy()
    del first, second
    gc.collect()
    assert buffers.taken.tolist() == [1, 1] and view.unique().tolist() == [1] and np.unique(pixels).tolist() == [2]
    del pixels
    gc.collect()
    assert buffers.taken.tolist() == [1, 0]
    again = batch_of(buffers, 4).finish()
    assert buffers.taken.tolist() == [1, 1] and view.unique().tolist() == [1]
    assert again.unique().tolist() == [4] and third.unique().tolist() == [3]
    del view, again
    gc.collect()
    assert buffers.taken.tolist() == [0, 0]


def test_a_batch_that_no_slot_can_hold_has_memory_of_its_own():
    buffers = BatchBuffers(0, 1, BYTES - 1)
    assert batch_of(buffers, 1).finish().unique().tolist() == [1] and buffers.taken.tolist() == [0]


def test_a_tensor_outlives_its_buffers():
    clips = batch_of(BatchBuffers(0, 1, BYTES), 5).finish()
    gc.collect()
    batch_of(BatchBuffers(0, 1, BYTES), 6).finish()
    assert clips.unique().tolist() == [5]


class Numbers(Dataset):
    """Batch i is full of i; with it come its slot, -1 for none, and the number of its worker."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.batch_bytes = BYTES
        self.bad_frames = None
        self.buffers = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple:
        batch = batch_of(self.buffers, index, clips=1 + index % 2)
        info = get_worker_info()
        return batch.finish(), -1 if batch.slot is None else batch.slot, info.id if info else 0


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("keep", [False, True])
def test_every_batch_arrives_as_it_was_filled_whether_batches_are_kept_or_dropped(workers, keep):
    loader = ClipLoader(Numbers(40), batch_size=None, num_workers=workers)
    kept, used = [], []
    for number, (clips, slot, worker) in enumerate(loader):
        assert clips.shape[0] == 1 + number % 2 and clips.unique().tolist() == [number]
        kept += [(number, clips)] if keep else []
        used.append((worker, slot))
        del clips
    assert all(clips.unique().tolist() == [number] for number, clips in kept)
    per_worker = 3 if workers == 0 else 4
    slots = per_worker * max(1, workers)
    if keep:
        assert sum(slot == -1 for _, slot in used) == 40 - slots and len({slot for _, slot in used} - {-1}) == slots
    else:
        assert all(slot >= 0 for _, slot in used)
    assert all(slot // per_worker == worker for worker, slot in used if slot >= 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_passes_over_one_loader_at_the_same_time_do_not_mix(workers):
    loader = ClipLoader(Numbers(12), batch_size=None, num_workers=workers)
    next(iter(loader))  # one that is broken off
    for number, (first, second) in enumerate(zip(loader, loader, strict=True)):
        assert first[0].unique().tolist() == second[0].unique().tolist() == [number]


def test_batches_are_right_when_the_system_grants_no_memory_for_the_slots(monkeypatch):
    def no_memory(*_):
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", no_memory)
    seen = [(clips.unique().tolist(), slot) for clips, slot, _ in ClipLoader(Numbers(3), batch_size=None)]
    assert seen == [([0], -1), ([1], -1), ([2], -1)]


def test_only_forked_workers_get_buffers_because_they_inherit_them():
    for method, inherits in (("spawn", False), ("forkserver", False), ("fork", True)):
        loader = ClipLoader(Numbers(3), batch_size=None, num_workers=1, multiprocessing_context=method)
        assert (loader._buffers() is not None) == inherits


def test_workers_that_stay_fill_the_same_memory_in_every_pass_also_after_one_that_was_broken_off():
    loader = ClipLoader(Numbers(40), batch_size=None, num_workers=2, persistent_workers=True)
    processes = set()
    for stop in (3, None, 1, None):
        seen = []
        for number, (clips, slot, _) in enumerate(loader):
            assert clips.unique().tolist() == [number] and slot >= 0
            seen.append(number)
            del clips
            if number == stop:
                break
        assert len(seen) == (40 if stop is None else stop + 1)
        processes |= {worker.pid for worker in loader._iterator._workers}
    assert len(processes) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loaders_of_a_run_use_the_buffers(tiny_mars, monkeypatch, workers):
    """Slots are as large as the largest batch of training and test, and are what batches are decoded into."""
    cfg = tiny_cfg(DATASETS__ROOT_DIR=tiny_mars, DATALOADER__NUM_WORKERS=workers)
    splits = configured_splits(cfg)
    for loader in (build_train_loader(cfg, splits), build_test_loader(cfg, splits.train, "dense")):
        buffers = loader._buffers()
        monkeypatch.setattr(loader, "_buffers", lambda buffers=buffers: buffers)
        kept = list(loader)
        largest = max(batch.clips.numel() for batch in kept)
        assert buffers.slot_bytes == largest
        assert buffers.taken.sum() == min(len(kept), len(buffers.taken)) > 0
        assert workers == 0 or loader.dataset.buffers is None


def test_buffers_stay_with_the_loader_that_made_them():
    dataset = Numbers(8)
    iterator = iter(ClipLoader(dataset, batch_size=None))
    next(iterator)
    assert dataset.buffers is not None and pickle.loads(pickle.dumps(dataset)).buffers is None  # not sent elsewhere
    found = [clips.unique().tolist() for clips, _, _ in DataLoader(dataset, batch_size=None, num_workers=2)]
    assert found == [[number] for number in range(8)]
