"""The crops of the plaza video against the pictures that were cut from it by other software."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.own.manifest import parse_video
from datasets.sets.mars import parse_mars
from datasets.tracklet import RawSplits
from tests.conftest import SHARED
from tests.datasets.own.plaza_video import HEIGHT, WIDTH, write_plaza_csv
from tests.datasets.own.video_files import pixels_of


@pytest.fixture(scope="module")
def plaza(tmp_path_factory) -> RawSplits:
    if not (SHARED / "data" / "plaza-video").is_dir():
        pytest.skip("needs the plaza video")
    folder = tmp_path_factory.mktemp("plaza")
    return parse_video(write_plaza_csv(SHARED, folder), cache_dir=str(folder / "cache"))


def test_the_plaza_video_gives_the_splits_of_the_plaza_lists(plaza):
    lists = parse_mars(SHARED / "data" / "plaza")
    for split, count in (("train", 53), ("query", 17), ("gallery", 47)):
        of_video = [(plaza.person(t.pid), plaza.cameras[t.camid], len(t.frames)) for t in getattr(plaza, split)]
        of_lists = [(f"{t.pid:04d}", f"C{t.camid + 1}", len(t.frames)) for t in getattr(lists, split)]
        assert of_video == of_lists and len(of_video) == count


def test_the_crops_of_the_plaza_video_are_the_plaza_pictures(plaza):
    lists = parse_mars(SHARED / "data" / "plaza")
    pairs = [
        (crop, known)
        for split in ("train", "query", "gallery")
        for of_video, of_lists in zip(getattr(plaza, split), getattr(lists, split))
        for crop, known in zip(of_video.frames, of_lists.frames)
    ]
    # A box at the picture's edge may have been cut off, and a border was drawn around such crops.
    pairs = [(crop, known) for crop, known in pairs if not _at_edge(crop)]
    for crop, known in pairs[::16]:
        resized = _resized_as_opencv_does(pixels_of(crop))
        assert np.abs(resized.astype(int) - pixels_of(known)).mean() < 3  # the loss by JPEG; a shift by one pixel: 5
        saved = io.BytesIO()
        Image.fromarray(resized).save(saved, "JPEG", quality=95)
        assert np.abs(pixels_of(saved).astype(int) - pixels_of(known)).mean() < 0.5
    assert len(pairs) > 1600


def _at_edge(crop: str) -> bool:
    _, x, y, w, h = map(int, Path(crop).stem.split("_"))
    return x == 0 or y == 0 or x + w == WIDTH or y + h == HEIGHT


def _resized_as_opencv_does(pixels: np.ndarray) -> np.ndarray:
    """To 128x256 pixels with the cubic kernel of OpenCV, whose parameter is -0.75."""
    clip = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(clip, (256, 128), mode="bicubic", align_corners=False)
    return resized[0].permute(1, 2, 0).clamp(0, 255).round().byte().numpy()
