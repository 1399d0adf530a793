"""Image files -> pixels, decoded into the memory of a batch.

libjpeg-turbo decodes a JPEG straight into its place, with Pillow's settings (exact DCT, smooth colours), so that every
pixel is Pillow's. Pillow decodes what libjpeg-turbo cannot. Frames of another size are resized by torchvision, or by
Pillow where a recipe asks for its bicubic filter. H, W = pixels.
"""

import errno
import math
import os
from collections.abc import Sequence
from typing import BinaryIO, Protocol

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from datasets.frames.modes import to_rgb
from utils.errors import InputError, MissingFileError

_JPEG = b"\xff\xd8"  # how every JPEG begins
_BINARY = getattr(os, "O_BINARY", 0)  # only Windows has it
_COLOURS = ("YCbCr", "Gray")  # CMYK is turned into RGB in another way than Pillow does


class FrameSource(Protocol):
    """Where the bytes of a frame come from."""

    def content(self, path: str) -> bytes | memoryview:
        """The bytes of the image that the data set names `path`; raises OSError, ValueError or InputError."""

    def open(self, path: str) -> str | BinaryIO:
        """What Pillow opens to read the same image."""


class FrameFiles:
    """Frames in files of their own."""

    def content(self, path: str) -> bytes:
        """The bytes of the file."""
        file = os.open(path, os.O_RDONLY | _BINARY)  # half the time that a file object takes
        try:
            size = os.fstat(file).st_size
            content = os.read(file, size)
            while len(content) < size:  # network file systems may give less than was asked for
                more = os.read(file, size - len(content))
                if not more:
                    raise OSError(errno.EIO, f"it ended after {len(content)} of {size} bytes")
                content += more
            return content
        finally:
            os.close(file)

    def open(self, path: str) -> str:
        """The path itself."""
        return path


FILES = FrameFiles()


def read_frame(path: str, size: Sequence[int], source: FrameSource = FILES) -> Tensor:
    """Decode one image as uint8 RGB (3, H, W) of `size`; raises MissingFileError / InputError naming the file."""
    frame_HW3 = np.empty((*size, 3), np.uint8)
    read_into(frame_HW3, path, source)
    return torch.from_numpy(frame_HW3).permute(2, 0, 1).contiguous()


def read_frames_into(
    frames_NHW3: NDArray[np.uint8], paths: Sequence[str], source: FrameSource, interpolation: str = "bilinear"
) -> None:
    """Decode image n into frame n; an image that is named several times is decoded once. Raises as `read_frame`."""
    place_of: dict[str, int] = {}
    for place, path in enumerate(paths):
        first = place_of.setdefault(path, place)
        if first == place:
            read_into(frames_NHW3[place], path, source, interpolation)
        else:
            frames_NHW3[place] = frames_NHW3[first]


def read_into(frame_HW3: NDArray[np.uint8], path: str, source: FrameSource, interpolation: str = "bilinear") -> None:
    """Decode one image into a contiguous uint8 frame (H, W, 3), resized where it has another size.

    `interpolation` is 'bilinear' or 'bicubic'.
    """
    pixels = _decode_jpeg(frame_HW3, path, source)
    if pixels is not None and pixels.shape == frame_HW3.shape:
        return  # it was decoded in place
    if pixels is None:
        pixels = _decode_with_pillow(path, source)
    if pixels.shape == frame_HW3.shape:
        frame_HW3[...] = pixels
    elif interpolation == "bicubic":
        frame_HW3[...] = resize_bicubic(pixels, frame_HW3.shape[:2])
    else:
        resized_3HW = resize_frame(torch.from_numpy(pixels).permute(2, 0, 1), frame_HW3.shape[:2])
        torch.from_numpy(frame_HW3).permute(2, 0, 1).copy_(resized_3HW)


def resize_frame(frame_3HW: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, anti-aliased resize of one uint8 frame to `size` [height, width]."""
    if list(frame_3HW.shape[1:]) == list(size):
        return frame_3HW
    return F.resize(frame_3HW, list(size), antialias=True)


def resize_bicubic(pixels_HW3: NDArray[np.uint8], size: Sequence[int]) -> NDArray[np.uint8]:
    """Pillow's bicubic, anti-aliased resize of one frame to `size` [height, width] -> (height, width, 3).

    This is what CLIP-ReID's transforms call. torchvision's own filter for tensors is four times as fast, but where one
    side grows and the other shrinks it differs by up to 19 grey levels on noise and by 2 on soft colours.
    """
    height, width = size
    return np.asarray(Image.fromarray(pixels_HW3).resize((width, height), Image.Resampling.BICUBIC))


def _decode_jpeg(frame_HW3: NDArray[np.uint8], path: str, source: FrameSource) -> NDArray[np.uint8] | None:
    """The pixels of a sound JPEG, in `frame_HW3` itself where they fit; None for what Pillow has to decode."""
    try:
        content = source.content(path)
        if content[:2] != _JPEG:
            return None
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in _COLOURS or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
            return None
        buffer = frame_HW3 if (height, width) == frame_HW3.shape[:2] else None
        return simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False, buffer=buffer)
    except InputError:
        raise
    except (OSError, ValueError):  # Pillow says what is wrong
        return None


def _decode_with_pillow(path: str, source: FrameSource) -> NDArray[np.uint8]:
    """The pixels of any image as RGB (H, W, 3); raises MissingFileError / InputError naming the file."""
    try:
        with Image.open(source.open(path)) as image:
            return np.array(to_rgb(image))
    except FileNotFoundError:
        raise MissingFileError(f"frame {path} does not exist") from None
    except UnidentifiedImageError:
        raise InputError(f"frame {path} cannot be decoded (it is no image); restore the file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise InputError(f"frame {path} cannot be opened ({error.strerror})") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, for broken files
        raise InputError(f"frame {path} cannot be decoded ({error}); restore the file") from None
