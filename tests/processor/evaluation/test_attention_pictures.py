"""Pictures of attention: the clip is that of a test, colours lie where the attention is, odd sizes can be drawn."""

import io
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import load_splits
from datasets.bad_frames import BadFrames
from datasets.tracklet import Tracklet
from model.attention import AttentionMaps
from processor.evaluation import attention, best_middle_worst, query_pictures
from processor.evaluation import attention_figure as drawing
from processor.evaluation.attention import look_at
from processor.evaluation.attention_figure import SeenClip, draw_picture
from processor.trained_model import load_trained
from tests.tolerance import TINY_LAYERS, TINY_SUM, assert_close
from utils.errors import InputError


@pytest.fixture(scope="module")
def trained(trained_run):
    return load_trained(trained_run / "best.pth", device="cpu")


@pytest.fixture(scope="module")
def splits(tiny_mars):
    return load_splits("MARS", str(tiny_mars))


def pixels(png: bytes) -> np.ndarray:
    """(height, width, 3)."""
    assert png.startswith(b"\x89PNG") and len(png) <= drawing._MOST_BYTES
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def seen_clip(frames: int = 2, size=(32, 16), patch=(8, 8), stride=(8, 8), memory: bool = True, tmc: bool = True):
    """Grey frames; all attention of the class token of the last frame lies on the last patch, else it is even."""
    h, w = ((size[axis] - patch[axis]) // stride[axis] + 1 for axis in (0, 1))
    even = torch.full((1, frames, h * w + 1), 1 / (h * w + 1))
    class_row = even.clone()
    class_row[0, -1] = torch.eye(h * w + 1)[-1]
    maps = AttentionMaps(
        torch.zeros(1, 4),
        class_row,
        torch.cat([even, torch.zeros(1, frames, 1)], dim=2) if memory else None,
        torch.full((1, frames, frames), 1 / frames) if tmc else None,
        (h, w), patch, stride, 2,
    )  # fmt: skip
    return SeenClip(np.full((frames, *size, 3), 118, np.uint8), list(range(1, frames + 1)), "clip 1 of 1", maps)


def test_best_middle_and_worst_of_those_that_have_a_match():
    precisions = [0.5, math.nan, 1.0, 0.25, 0.75]
    notes = {2: "AP 1.000, best of 4", 4: "AP 0.750, middle of 4", 3: "AP 0.250, worst of 4"}
    assert best_middle_worst(precisions) == notes and list(best_middle_worst(precisions)) == [2, 4, 3]
    assert best_middle_worst([0.5, 0.6]) == {1: "AP 0.600, best of 2", 0: "AP 0.500, worst of 2"}
    assert best_middle_worst([math.nan, 0.6]) == {1: "AP 0.600, only one of 1"}
    assert best_middle_worst([math.nan]) == {}


def test_the_clips_are_those_of_the_test(trained, splits, trained_run):
    tested = np.load(trained_run / "features.npz")["features"]
    for row in (0, 3):
        query = splits.query[row]
        clips = [look_at(trained, query, clip=clip) for clip in range(-(-len(query.frames) // 2))]
        mean = torch.stack([clip.maps.features[0] for clip in clips]).mean(dim=0)
        assert_close(mean.numpy(), tested[row], TINY_SUM, TINY_LAYERS)
        assert clips[1].numbers[0] == 3
        assert clips[0].where == f"clip 1 of {len(clips)}, frames 1 to 2 of {len(query.frames)}"
    three = Tracklet(query.frames[:3], 1, 0)
    last = look_at(trained, three, clip=1)
    assert last.numbers == [3, 3] and last.where == "clip 2 of 2, frames 3 to 3 of 3, repeated"
    with pytest.raises(InputError, match=r"no clip 3 of the tracklet that begins with .*: its 3 frames make 2"):
        look_at(trained, three, clip=2)


def test_colours_lie_where_the_attention_is():
    clip = seen_clip()
    picture = pixels(draw_picture("title", clip).png)
    cell, pitch = (160, 80), 160 + drawing._ROW_GAP
    left = drawing._LEFT + cell[1] + drawing._GAP  # the second frame
    top = drawing._TOP + pitch
    frame = picture[drawing._TOP : drawing._TOP + 160, left : left + 80]
    assert np.abs(frame - 118).max() <= 8  # the frame itself, but for the number of colours
    overlay = picture[top : top + 160, left : left + 80]
    brightest = drawing._coloured(np.ones(1), drawing._GREYS[6])[0].astype(int)
    darkest = drawing._coloured(np.zeros(1), drawing._GREYS[6])[0].astype(int)
    assert np.abs(overlay[122:158, 42:78] - brightest).max() <= 8  # the last of 4 x 2 patches
    assert np.abs(overlay[:118] - darkest).max() <= 8 and np.abs(overlay[122:, :38] - darkest).max() <= 8
    legend = picture[top + 2, left + 80 + drawing._GAP + 2 + drawing._BAR // 2]
    assert np.abs(legend - brightest).max() <= 8
    white = picture[top + 60, left + 80 + 1]
    assert white.tolist() == [255, 255, 255]


def test_overlapping_patches_colour_the_pixels_around_their_centres():
    clip = seen_clip(frames=1, size=(16, 8), patch=(8, 8), stride=(4, 8))  # centres at rows 4, 8, 12
    values = np.arange(3, dtype=np.float32).reshape(1, 3, 1)
    spread = drawing._spread(values, clip, (16, 8))
    assert spread.shape == (1, 16, 8)
    assert spread[0, :, 0].tolist() == [0] * 6 + [1] * 4 + [2] * 6
    assert drawing._spread(values, clip, (32, 4))[0, :, 0].tolist() == [0] * 12 + [1] * 8 + [2] * 12


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 1}, {"frames": 1, "memory": False, "tmc": False}, {"memory": False}, {"frames": 12}, {"frames": 40},
        {"size": (8, 64)}, {"size": (256, 128), "patch": (16, 16), "stride": (12, 12)}, {"size": (64, 8)},
    ],
    ids=str,
)  # fmt: skip
def test_odd_sizes_can_be_drawn(options):
    clip = seen_clip(**options)
    picture = draw_picture("a title", clip)
    height, width, _ = pixels(picture.png).shape
    assert width >= drawing._LEAST_WIDTH and height > drawing._TOP and width <= 1600
    assert ("memory token in MD" in picture.note) == options.get("memory", True)
    assert picture.note.startswith("Clip 1 of 1; class token, rolled out over 2 blocks: ")


def test_a_cnn_is_named_as_one():
    clip = seen_clip()
    note = draw_picture("x", clip._replace(maps=replace(clip.maps, rolled_out=0))).note
    assert "attention pool: " in note and "rolled out" not in note


def test_any_title_is_plain_text():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, dollars = (draw_picture(title, seen_clip()) for title in ("a", "costs $x^2$ 文 \n" * 20))
    assert dollars.title.startswith("costs $x^2$ 文") and not np.array_equal(pixels(plain.png), pixels(dollars.png))


def test_cameras_are_found_by_their_names(trained, splits, monkeypatch):
    given = []
    monkeypatch.setattr(attention, "attention_pictures", lambda trained, *rest: given.extend(rest))
    other = replace(splits, cameras=("roof", *splits.cameras))  # each camera has the next one's number, 0 a new one
    query_pictures(trained, other, "MARS", {0: "AP 0.500", 2: ""})
    queries, titles = given[:2]
    for row, query in zip((0, 2), queries, strict=True):
        camid = splits.query[row].camid
        assert query == replace(splits.query[row], camid=camid - 1 if camid else trained.no_camera)
    names = [other.camera(splits.query[row].camid) for row in (0, 2)]
    assert titles[0] == f"query 1: person {splits.query[0].pid}, camera {names[0]} (AP 0.500)"
    assert titles[1].endswith(f"camera {names[1]}")
    # The cameras of another data set are other ones, whatever their names; so are those of data that name none.
    for there, dataset in ((splits, "Market1501"), (replace(splits, cameras=()), "MARS")):
        given.clear()
        query_pictures(trained, there, dataset, {0: "", 2: ""})
        assert [query.camid for query in given[0]] == [trained.no_camera] * 2


def test_an_unreadable_frame_is_an_error_or_replaced(trained, splits, tmp_path):
    first, second = splits.query[0].frames[:2]
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    tracklet = Tracklet((first, str(tmp_path / "broken.jpg"), second), 1, 0)
    with pytest.raises(InputError, match="broken.jpg cannot be decoded"):
        look_at(trained, tracklet)
    bad_frames = BadFrames(0)
    clip = look_at(trained, tracklet, bad_frames=bad_frames)
    assert list(bad_frames.files) == [str(tmp_path / "broken.jpg")]
    assert np.array_equal(clip.frames[0], clip.frames[1])
