"""Pictures of every mode that cameras and annotation tools write."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.frames.modes import to_rgb
from datasets.frames.probe import open_frame
from datasets.frames.reader import read_frame
from utils.errors import InputError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_modes_of_8_bits_keep_their_grey(mode, tmp_path):
    suffix = "tiff" if mode == "CMYK" else "png"
    Image.fromarray(RAMP).convert(mode).save(tmp_path / f"a.{suffix}")
    rgb = read_frame(str(tmp_path / f"a.{suffix}"), (16, 16))
    assert torch.equal(rgb, torch.from_numpy(RAMP).expand(3, 16, 16))


def test_16_bit_grey_keeps_its_whole_range(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "a.png")
    rgb = read_frame(str(tmp_path / "a.png"), (16, 16))
    assert torch.equal(rgb, torch.from_numpy(RAMP).expand(3, 16, 16))
    assert open_frame(str(tmp_path / "a.png")).fault == ""


@pytest.mark.parametrize("values", [RAMP.astype(np.float32), RAMP.astype(np.int32)])
def test_pictures_without_a_range_are_refused(values, tmp_path):
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match="a.tiff cannot be decoded .its mode . has no fixed range"):
        read_frame(str(tmp_path / "a.tiff"), (16, 16))
    assert "has no fixed range" in open_frame(str(tmp_path / "a.tiff")).fault
    with pytest.raises(ValueError, match="mode"):
        to_rgb(Image.open(tmp_path / "a.tiff"))
