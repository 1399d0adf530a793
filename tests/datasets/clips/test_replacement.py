"""DATASETS.ON_BAD_FRAME skip: what stands in for unreadable frames, the same whoever reads them in whatever order."""

import logging
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.bad_frames import BadFrames
from datasets.clips import ClipAugment, ClipLoader, EvalClips, TrainClips, keep_batch, read_nearest_into
from datasets.frames import FILES, FrameStore, write_store
from datasets.tracklet import Tracklet
from utils.errors import InputError

SIZE = (8, 4)


@pytest.fixture
def tracklets(tmp_path) -> list[Tracklet]:
    """Of 9, 5 and 2 frames; frame f of tracklet t is full of 40 t + 4 f, with a spot at its left side."""
    made = []
    for row, count in enumerate((9, 5, 2)):
        paths = [tmp_path / f"{row}_{frame}.png" for frame in range(count)]
        for frame, path in enumerate(paths):
            pixels = np.full((*SIZE, 3), 40 * row + 4 * frame, np.uint8)
            pixels[:, 0] = 255  # a flip shows
            Image.fromarray(pixels).save(path)
        made.append(Tracklet(tuple(map(str, paths)), pid=row, camid=row))
    return made


def truncate(path: str) -> None:
    with open(path, "r+b") as file:
        file.truncate(45)


def no_image(path: str) -> None:
    with open(path, "wb") as file:
        file.write(b"not an image")


def folder(path: str) -> None:
    os.remove(path)
    os.mkdir(path)


BREAK = [os.remove, truncate, no_image, folder]


def frames_read(tracklet: Tracklet, places: list[int]) -> tuple[list[int], dict[str, str]]:
    """Which frames stand at the places, by their colour, and the faults."""
    frames_NHW3, faults = np.empty((len(places), *SIZE, 3), np.uint8), {}
    read_nearest_into(frames_NHW3, [(tracklet.frames, place) for place in places], FILES, faults)
    return (frames_NHW3[:, 0, 2, 0] // 4).tolist(), faults


@pytest.mark.parametrize("break_it", BREAK)
@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ([4], [0, 1, 2, 3, 3, 5, 6, 7, 8]),  # of two neighbours the earlier one
        ([0], [1, 1, 2, 3, 4, 5, 6, 7, 8]),
        ([8], [0, 1, 2, 3, 4, 5, 6, 7, 7]),
        ([3, 4], [0, 1, 2, 2, 5, 5, 6, 7, 8]),
        ([3, 4, 5], [0, 1, 2, 2, 2, 6, 6, 7, 8]),
        ([0, 1, 2, 7, 8], [3, 3, 3, 3, 4, 5, 6, 6, 6]),
        ([0, 1, 2, 3, 4, 5, 6, 7], [8] * 9),
    ],
)
def test_the_nearest_readable_frame_takes_the_place_whatever_is_read_before(tracklets, break_it, bad, expected):
    for place in bad:
        break_it(tracklets[0].frames[place])
    for places in (list(range(9)), list(range(8, -1, -1)), [4, 4, 0, 8, 3, 5]):
        found, faults = frames_read(tracklets[0], places)
        assert found == [expected[place] for place in places]
        asked_for = {tracklets[0].frames[place] for place in places if place in bad}
        assert asked_for <= faults.keys() <= {tracklets[0].frames[place] for place in bad}
        assert all(path in line and "\n" not in line for path, line in faults.items())
    assert [frames_read(tracklets[0], [place])[0] for place in range(9)] == [[frame] for frame in expected]


def test_a_frame_altered_in_a_pack_is_replaced_too(tracklets, tmp_path):
    paths = sorted(path for t in tracklets for path in t.frames)
    pack = tmp_path / "frames.pack"
    write_store(pack, [(path[len(str(tmp_path)) + 1 :], open(path, "rb").read()) for path in paths])
    content, altered = pack.read_bytes(), open(tracklets[0].frames[4], "rb").read()
    pack.write_bytes(content.replace(altered, altered[:-1] + b"\0"))
    source = FrameStore(str(pack), str(tmp_path))
    frames_NHW3, faults = np.empty((1, *SIZE, 3), np.uint8), {}
    with pytest.raises(InputError, match="altered bytes"):
        read_nearest_into(frames_NHW3, [(tracklets[0].frames, 4)], source, None)
    read_nearest_into(frames_NHW3, [(tracklets[0].frames, 4)], source, faults)
    assert frames_NHW3[0, 0, 2, 0] == 12 and list(faults) == [tracklets[0].frames[4]]


def test_a_tracklet_without_a_readable_frame_is_named(tracklets):
    for path in tracklets[2].frames:
        truncate(path)
    with pytest.raises(InputError, match="no frame of the tracklet that begins with .*2_0.png can be read") as caught:
        frames_read(tracklets[2], [1])
    assert "\n" not in str(caught.value)


def loaders(tracklets: list[Tracklet], workers: int, bad_frames: BadFrames | None) -> list[ClipLoader]:
    """Training clips, flipped and erased at random, and all frames of a test in batches of two sizes."""
    draws = [[(row, seed), (2 - row, seed + 50)] for seed in range(12) for row in (0, 1)]
    train = TrainClips(tracklets, 4, SIZE, ClipAugment(0.5, 0.5), 2, bad_frames=bad_frames)
    tests = [EvalClips(tracklets, 4, SIZE, "dense", frames, bad_frames=bad_frames) for frames in (4, 100)]
    options = {"num_workers": workers}
    return [
        ClipLoader(train, batch_sampler=draws, collate_fn=keep_batch, **options),
        *(ClipLoader(test, batch_size=None, **options) for test in tests),
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_data_in_which_the_neighbour_stands_at_the_place(tracklets, workers, caplog):
    """Same draws, flips and boxes; the loop gets plain batches; each file is named once for all loaders of the run."""
    bad = [(0, 4, 3), (0, 8, 7), (1, 0, 1)]  # tracklet, frame, what takes its place
    for row, place, nearest in bad:
        shutil.copy(tracklets[row].frames[nearest], tracklets[row].frames[place])
    expected = [list(loader) for loader in loaders(tracklets, 0, None)]
    for (row, place, _), break_it in zip(bad, BREAK):
        break_it(tracklets[row].frames[place])
    bad_frames = BadFrames(limit=3)
    with caplog.at_level(logging.WARNING):
        found = [list(loader) for loader in loaders(tracklets, workers, bad_frames)]
    for batches, others in zip(found, expected):
        assert [type(batch) for batch in batches] == [type(batch) for batch in others]
        for batch, other in zip(batches, others, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))
    names = {tracklets[row].frames[place] for row, place, _ in bad}
    assert bad_frames.files.keys() == names and len(caplog.messages) == 3
    assert all(sum(name in message for message in caplog.messages) == 1 for name in names)
    with pytest.raises(InputError):
        [list(loader) for loader in loaders(tracklets, workers, None)]


@pytest.mark.parametrize("workers", [0, 2])
def test_more_files_than_the_limit_stop_the_run_in_one_line(tracklets, workers):
    for place in (1, 3, 5):
        truncate(tracklets[0].frames[place])
    for limit, stops in ((2, True), (3, False), (0, False)):
        loader = loaders(tracklets, workers, BadFrames(limit))[1]
        if stops:
            with pytest.raises(
                InputError, match="3 frames cannot be read, more than DATASETS.BAD_FRAME_LIMIT 2"
            ) as error:
                list(loader)
            assert "\n" not in str(error.value)
        else:
            assert len(list(loader)) == 6
