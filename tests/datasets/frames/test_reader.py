"""Frames in their places: the pixels of Pillow for every kind of file, and its words for broken ones."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from datasets.frames import reader
from datasets.frames.probe import open_frame
from datasets.frames.reader import FILES, read_frame, read_frames_into
from tests.conftest import SHARED
from tests.datasets.clips.first_loader import first_read_frame
from utils.errors import InputError, MissingFileError

SIZES = [(64, 32), (63, 31), (1, 1), (17, 9), (130, 65)]


def picture(height: int, width: int, seed: int, smooth: bool) -> Image.Image:
    """Coloured noise, or soft colours as photographs have."""
    small = (height // 8 + 2, width // 8 + 2) if smooth else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, (*small, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


KINDS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True, "quality": 60},
    "coarse": {"quality": 3},
    "restarts": {"restart_marker_blocks": 1},
    "turned by EXIF": {"exif": exif(6)},
    "RGB inside": {"keep_rgb": True, "subsampling": 0},
}


@pytest.fixture
def decoded_fast(monkeypatch) -> list[str]:
    """The files that did not need Pillow."""
    fast, decode = [], reader._decode_jpeg

    def watched(frame, content):
        pixels = decode(frame, content)
        fast.extend([content] if pixels is not None else [])
        return pixels

    monkeypatch.setattr(reader, "_decode_jpeg", watched)
    return fast


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smooth", [False, True])
def test_jpegs_have_the_pixels_that_pillow_gives_at_their_size_and_at_another(tmp_path, kind, smooth, decoded_fast):
    path = str(tmp_path / "a.jpg")
    for seed, size in enumerate(SIZES):
        picture(*size, seed, smooth).save(path, **KINDS[kind])
        for asked in (size, (64, 32), (40, 90)):
            assert torch.equal(read_frame(path, asked), first_read_frame(path, asked)), (size, asked)
    assert bool(decoded_fast) == (kind != "RGB inside")


def test_colours_that_are_subsampled_along_columns_alone_are_pillows_too(tmp_path, decoded_fast):
    path = tmp_path / "a.jpg"
    picture(64, 32, 0, True).save(path, subsampling=1)
    content = bytearray(path.read_bytes())
    place = content.index(b"\xff\xc0") + 11  # sampling factors of the first component in the frame header
    assert content[place] == 0x21
    content[place] = 0x12  # 4:4:0; as many blocks of 8 x 16 pixels as there were of 16 x 8
    path.write_bytes(content)
    assert simplejpeg.decode_jpeg_header(bytes(content))[3] == "440"
    assert torch.equal(read_frame(str(path), (64, 32)), first_read_frame(str(path), (64, 32))) and decoded_fast


@pytest.mark.parametrize(("mode", "suffix", "fast"), [
    ("L", "jpg", True), ("CMYK", "jpg", False), ("L", "png", False), ("P", "png", False), ("RGBA", "png", False),
    ("RGB", "bmp", False),
])  # fmt: skip
def test_other_modes_and_formats_have_the_pixels_that_pillow_gives(tmp_path, mode, suffix, fast, decoded_fast):
    path = str(tmp_path / f"a.{suffix}")
    picture(64, 32, 0, True).convert(mode).save(path)
    for asked in ((64, 32), (32, 16)):
        assert torch.equal(read_frame(path, asked), first_read_frame(path, asked))
    assert bool(decoded_fast) == fast


def outcome(path: Path, size: tuple[int, int]) -> torch.Tensor | str:
    """The frame, or what is said of it."""
    try:
        return read_frame(str(path), size)
    except InputError as error:
        return str(error)


def test_damaged_jpegs_give_what_pillow_makes_of_them(tmp_path, monkeypatch):
    path, rng = tmp_path / "a.jpg", random.Random(0)
    picture(48, 24, 0, True).save(path)
    whole, results = path.read_bytes(), []
    for number in range(150):
        content = bytearray(whole)
        if number % 3 == 0:
            del content[rng.randrange(len(whole)) :]
        elif number % 3 == 1:
            content[rng.randrange(2, len(whole))] = rng.randrange(256)
        else:
            content += bytes(rng.randrange(256) for _ in range(20))
        path.write_bytes(content)
        now = outcome(path, (48, 24))
        with monkeypatch.context() as patch:
            patch.setattr(reader, "_decode_jpeg", lambda *_: None)  # Pillow alone
            before = outcome(path, (48, 24))
        assert torch.equal(now, before) if torch.is_tensor(before) else now == before
        results.append(torch.is_tensor(now))
    assert 40 < sum(results) < 110  # both kinds


def test_a_missing_an_empty_and_a_cut_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(MissingFileError, match="a.jpg does not exist"):
        read_frame(str(tmp_path / "a.jpg"), (8, 4))
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"b.jpg cannot be decoded \(it is no image\); restore the file"):
        read_frame(str(tmp_path / "b.jpg"), (8, 4))
    picture(64, 32, 0, False).save(tmp_path / "c.jpg")
    (tmp_path / "c.jpg").write_bytes((tmp_path / "c.jpg").read_bytes()[:-200])
    with pytest.raises(InputError, match=r"c.jpg cannot be decoded \(image file is truncated"):
        read_frame(str(tmp_path / "c.jpg"), (64, 32))
    with pytest.raises(InputError, match=r"cannot be opened \(Is a directory\)"):
        read_frame(str(tmp_path), (8, 4))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_picture_of_unreasonable_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch, name):
    path = str(tmp_path / name)
    Image.new("RGB", (8_001, 8_000)).save(path)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match=rf"{name} cannot be decoded \(it is 8001x8000 pixels, at most 64,000,000 in"):
        read_frame(path, (64, 32))
    assert "8001x8000" in open_frame(path).fault


def test_frames_lie_in_their_places_also_when_they_are_named_twice(tmp_path):
    paths = [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.png")]
    for seed, (path, size) in enumerate(zip(paths, [(16, 8), (20, 10), (16, 8)])):
        picture(*size, seed, True).save(path)
    order = [0, 1, 0, 2, 1, 2]
    frames_NHW3 = np.full((7, 16, 8, 3), 99, np.uint8)
    read_frames_into(frames_NHW3[:6], [paths[place] for place in order], FILES)
    for frame, place in zip(frames_NHW3, order):
        assert np.array_equal(frame, first_read_frame(paths[place], (16, 8)).permute(1, 2, 0).numpy())
    assert (frames_NHW3[6] == 99).all()


def test_real_frames_have_the_pixels_that_pillow_gives():
    paths = sorted((SHARED / "data" / "plaza").glob("bbox_*/*/*.jpg"))[::20]
    if not paths:
        pytest.skip("the frames are absent")
    for path in paths:
        for size in ((256, 128), (128, 64)):
            assert torch.equal(read_frame(str(path), size), first_read_frame(str(path), size))


def test_bytes_in_memory_serve_like_files(tmp_path):
    class InMemory:
        def content(self, path):
            return memoryview(kept[path])

    kept = {}
    for name in ("a.jpg", "a.png"):
        picture(20, 10, 0, True).save(tmp_path / name)
        kept[name] = (tmp_path / name).read_bytes()
        for size in ((20, 10), (16, 8)):
            assert torch.equal(read_frame(name, size, InMemory()), read_frame(str(tmp_path / name), size))
    kept["b.jpg"] = kept["a.jpg"][:-50]
    with pytest.raises(InputError, match=r"^frame b.jpg cannot be decoded \(image file is truncated"):
        read_frame("b.jpg", (20, 10), InMemory())


def test_a_file_that_comes_in_pieces_is_read_whole_and_one_that_ends_early_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "frame.bin"
    path.write_bytes(bytes(range(256)) * 40)
    read = os.read
    monkeypatch.setattr(os, "read", lambda file, size: read(file, min(size, 1000)))
    assert FILES.content(str(path)) == path.read_bytes()
    pieces = iter([b"abc", b""])
    monkeypatch.setattr(os, "read", lambda file, size: next(pieces))
    with pytest.raises(OSError, match="ended after 3 of 10240 bytes"):
        FILES.content(str(path))
