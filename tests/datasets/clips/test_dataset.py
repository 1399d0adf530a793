"""Tracklets -> clips: what shares a batch, that a draw follows from its seed, and errors that name the file."""

import random
from collections import Counter

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from configs import load_cfg
from datasets import build_memory_loader, build_test_loader, build_train_loader, load_splits
from datasets.clips.buffers import ClipLoader
from datasets.clips.dataset import EvalClips, TrainClips
from datasets.clips.sampling import random_per_chunk
from datasets.clips.transforms import ClipAugment, Normalize
from datasets.frames.reader import FrameFiles, read_frame
from datasets.tracklet import Tracklet
from tests.conftest import tiny_options
from tests.datasets.clips.first_loader import first_train_clip
from utils.errors import InputError, MissingFileError

SIZE = (8, 4)
LENGTHS = (3, 1, 9, 4)  # frames per tracklet; cameras 2, 0, 5, 1


@pytest.fixture(scope="module")
def tracklets(tmp_path_factory) -> list[Tracklet]:
    """Four tracklets; every pixel of frame f of tracklet t is (20 t, 10 f, 255)."""
    folder = tmp_path_factory.mktemp("frames")
    made = []
    for row, (length, camid) in enumerate(zip(LENGTHS, (2, 0, 5, 1))):
        paths = [folder / f"{row}_{frame}.png" for frame in range(length)]
        for frame, path in enumerate(paths):
            Image.new("RGB", (SIZE[1], SIZE[0]), (20 * row, 10 * frame, 255)).save(path)
        made.append(Tracklet(tuple(map(str, paths)), pid=row % 2, camid=camid))
    return made


def source_of(clip: torch.Tensor) -> tuple[int, list[int]]:
    """(tracklet, frames) a clip (T, 3, H, W) was read from, by its colours; every frame is flat."""
    assert torch.equal(clip, clip[:, :, :1, :1].expand_as(clip))
    rows, frames = clip[:, 0, 0, 0] // 20, clip[:, 1, 0, 0] // 10
    assert rows.unique().numel() == 1 and (clip[:, 2] == 255).all()
    return rows[0].item(), frames.tolist()


def test_dense_clips_fill_batches_across_tracklets_and_split_long_ones(tracklets):
    dataset = EvalClips(tracklets, clip_length=4, size=SIZE, sampling="dense", frames_per_batch=11)
    batches = [dataset[index] for index in range(len(dataset))]
    # 11 frames hold two clips of 4. Clips: one of tracklet 0, one of 1, three of 2, one of 3.
    assert [batch.rows.tolist() for batch in batches] == [[0, 1], [2, 2], [2, 3]]
    assert [batch.camids.tolist() for batch in batches] == [[2, 0], [5, 5], [5, 1]]
    assert [source_of(clip) for batch in batches for clip in batch.clips] == [
        (0, [0, 1, 2, 0]), (1, [0, 0, 0, 0]), (2, [0, 1, 2, 3]), (2, [4, 5, 6, 7]), (2, [8, 8, 8, 8]),
        (3, [0, 1, 2, 3]),
    ]  # fmt: skip
    for batch in batches:
        assert batch.clips.dtype == torch.uint8 and batch.rows.dtype == batch.camids.dtype == torch.int64
    batch = EvalClips(tracklets, 4, SIZE, "first", 999)[0]
    assert batch.rows.tolist() == [0, 1, 2, 3]
    assert [source_of(clip)[1] for clip in batch.clips] == [[0, 1, 2, 2], [0] * 4, [0, 3, 6, 8], [0, 1, 2, 3]]


@pytest.mark.parametrize(("bound", "sizes"), [(4, [1] * 6), (7, [1] * 6), (8, [2] * 3), (16, [4, 2]), (999, [6])])
def test_a_batch_never_exceeds_the_bound_on_frames_and_is_as_full_as_it_allows(tracklets, bound, sizes):
    dataset = EvalClips(tracklets, 4, SIZE, "dense", bound)
    assert [len(dataset[index].clips) for index in range(len(dataset))] == sizes
    assert all(dataset[index].clips[:, :, 0, 0, 0].numel() <= bound for index in range(len(dataset)))


def test_a_training_draw_takes_the_frames_and_labels_of_its_seed(tracklets):
    dataset = TrainClips(tracklets, 4, SIZE, ClipAugment(flip_prob=0.5, erase_prob=0), batch_size=2)
    for seed in range(10):
        batch = dataset.__getitems__([(2, seed)])
        assert source_of(batch.clips[0]) == (2, random_per_chunk(9, 4, random.Random(seed)))
        assert (batch.pids.tolist(), batch.camids.tolist()) == ([0], [5])
    assert len({str(source_of(dataset.__getitems__([(2, seed)]).clips[0])) for seed in range(10)}) > 1
    batch = dataset.__getitems__([(2, 0), (3, 0)])
    assert [source_of(clip)[0] for clip in batch.clips] == [2, 3]
    assert (batch.pids.tolist(), batch.camids.tolist()) == ([0, 1], [5, 1])
    assert batch.pids.dtype == batch.camids.dtype == torch.int64


@pytest.mark.parametrize("legacy", [False, True])
def test_whole_batches_are_those_of_the_first_implementation_bit_for_bit(tmp_path, legacy):
    """Frames of the size asked for and of others, JPEG and PNG, decoded by Pillow and augmented one by one."""
    tracklets = []
    for row, (length, size) in enumerate([(9, (16, 32)), (3, (20, 40)), (1, (16, 32)), (5, (9, 50))]):
        paths = [tmp_path / f"{row}_{frame}.{'png' if frame == 2 else 'jpg'}" for frame in range(length)]
        for path in paths:
            Image.effect_noise(size, 90).convert("RGB").save(path)
        tracklets.append(Tracklet(tuple(map(str, paths)), pid=row % 2, camid=row))
    dataset = TrainClips(tracklets, 4, (32, 16), ClipAugment(0.5, 0.5, legacy), batch_size=6)
    for first in range(0, 600, 6):
        draws = [(index, seed) for index, seed in zip((0, 0, 1, 2, 3, 1), range(first, first + 6))]
        clips, pids, camids = dataset.__getitems__(draws)
        expected = [first_train_clip(tracklets[index], 4, (32, 16), 0.5, 0.5, legacy, seed) for index, seed in draws]
        assert torch.equal(clips, torch.stack(expected))
        assert pids.tolist() == [0, 0, 1, 0, 1, 1] and camids.tolist() == [0, 0, 1, 2, 3, 1]


class CountingFiles(FrameFiles):
    """Files, and how often each one was read."""

    def __init__(self) -> None:
        self.reads = Counter()

    def content(self, path: str) -> bytes:
        self.reads[path] += 1
        return super().content(path)


def test_a_frame_is_read_once_per_clip_in_training_and_once_per_batch_in_a_test(tracklets):
    source = CountingFiles()
    dataset = TrainClips(tracklets, 4, SIZE, ClipAugment(1, 1), 4, source)
    batch = dataset.__getitems__([(1, 3), (1, 4), (0, 5), (1, 6)])
    assert source.reads[tracklets[1].frames[0]] == 3  # one frame, repeated in each of three clips
    assert all(source.reads[frame] == 1 for frame in tracklets[0].frames)
    source = CountingFiles()
    EvalClips([tracklets[1]] * 3, 4, SIZE, "dense", 100, source)[0]
    assert source.reads == {tracklets[1].frames[0]: 1}
    separate = [dataset.__getitems__([draw]).clips[0] for draw in ((1, 3), (1, 4), (0, 5), (1, 6))]
    assert torch.equal(batch.clips, torch.stack(separate))  # a copy is of the frame before its first augmentation


@pytest.mark.parametrize("workers", [0, 1])
def test_clips_are_a_view_of_one_memory_with_channels_last(tracklets, workers):
    dataset = EvalClips(tracklets, 4, SIZE, "dense", 8)
    for batch in ClipLoader(dataset, batch_size=None, num_workers=workers):
        clips, _, frames = len(batch.clips), *batch.clips.shape[:2]
        assert batch.clips.shape == (clips, 4, 3, 8, 4) and frames == 4
        assert batch.clips.permute(0, 1, 3, 4, 2).is_contiguous()
        assert batch.clips.to("cpu", copy=True).permute(0, 1, 3, 4, 2).is_contiguous()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("workers", [0, 1])
def test_clips_stay_the_same_through_pinned_memory_and_on_the_gpu(tracklets, workers):
    dataset = EvalClips(tracklets, 4, SIZE, "dense", 8)
    plain = [dataset[index].clips for index in range(len(dataset))]
    normalize = Normalize([0.5] * 3, [0.25] * 3)
    loader = ClipLoader(dataset, batch_size=None, num_workers=workers, pin_memory=True)
    for expected, batch in zip(plain, loader, strict=True):
        assert batch.clips.is_pinned() and batch.clips.permute(0, 1, 3, 4, 2).is_contiguous()
        on_gpu = batch.clips.to("cuda", non_blocking=True)
        assert torch.equal(on_gpu.cpu(), expected)
        normal = normalize.to("cuda")(on_gpu)
        assert normal.is_contiguous() and torch.allclose(normal.cpu(), normalize.to("cpu")(expected), atol=1e-6)


def test_epochs_do_not_depend_on_the_workers_or_the_global_random_state_and_leave_it_as_it_is(tiny_mars):
    splits = load_splits("MARS", str(tiny_mars))
    runs = []
    for workers in (0, 2):
        torch.manual_seed(workers)
        random.seed(workers)
        before = (torch.get_rng_state(), random.getstate())
        cfg = load_cfg(None, tiny_options(DATALOADER__NUM_WORKERS=workers))
        loader = build_train_loader(cfg, splits)
        for epoch in (0, 1):
            loader.batch_sampler.set_epoch(epoch)
            batches = list(loader)
        runs.append(batches)
        assert workers == 0 or all(process.is_alive() for process in loader._iterator._workers)  # for the next epoch
        list(build_memory_loader(cfg, splits, splits.train))
        assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert len(runs[0]) == len(runs[1]) > 0
    for one, other in zip(*runs):
        assert all(torch.equal(a, b) for a, b in zip(one, other))


def test_the_test_loader_has_each_tracklet_once_and_the_memory_loader_every_training_frame_in_order(tiny_mars):
    cfg, splits = load_cfg(None, tiny_options(TEST__FRAMES_PER_BATCH=6)), load_splits("MARS", str(tiny_mars))
    tracklets, seen = splits.query + splits.gallery, {}
    batches = list(build_test_loader(cfg, tracklets, "first"))
    assert torch.cat([batch.rows for batch in batches]).tolist() == list(range(len(tracklets)))
    assert torch.cat([batch.camids for batch in batches]).tolist() == [t.camid for t in tracklets]
    for batch in build_memory_loader(cfg, splits, splits.train):
        assert batch.clips.shape[0] * batch.clips.shape[1] <= 6
        for row, clip in zip(batch.rows.tolist(), batch.clips):
            seen.setdefault(row, []).extend(clip)
    assert list(seen) == list(range(len(splits.train)))
    for row, tracklet in enumerate(splits.train):
        shown = torch.stack(seen[row])[: len(tracklet.frames)]
        assert torch.equal(shown, torch.stack([read_frame(path, (32, 16)) for path in tracklet.frames]))


def error_of(loader: DataLoader) -> InputError:
    batches = iter(loader)
    with pytest.raises(InputError) as caught:
        next(batches)
    if loader.num_workers:
        batches._shutdown_workers()  # left to the garbage collector, a worker is waited for through five seconds
    return caught.value


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("broken", [True, False])
def test_the_error_of_a_frame_is_one_clean_line_also_from_a_worker(tmp_path, workers, broken):
    path = tmp_path / "0001C1T0001F001.jpg"
    if broken:
        path.write_bytes(b"not an image")
    dataset = EvalClips([Tracklet((str(path),), 0, 0)], 2, SIZE, "dense", 2)
    error = error_of(DataLoader(dataset, batch_size=None, num_workers=workers))
    assert type(error) is (InputError if broken else MissingFileError)
    assert error.line.startswith(f"frame {path} {'cannot be decoded' if broken else 'does not exist'}")
    assert "\n" not in error.line and isinstance(error, FileNotFoundError) is not broken
    assert broken or error.line.endswith("were moved, mend DATASETS.ROOT_DIR; a training goes on with --resume")


class _Threads(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, _index):
        return torch.get_num_threads()


def test_a_worker_process_computes_with_one_thread():
    """Frames are resized and flipped with torch: processes with threads each would be in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(DataLoader(_Threads(), batch_size=None, num_workers=1)) == [1]
    finally:
        torch.set_num_threads(threads)
