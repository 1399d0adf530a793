"""Image files -> pixels, decoded into the memory of a batch.

libjpeg-turbo decodes a JPEG straight into its place, with Pillow's settings (exact DCT, smooth colours), so that every
pixel is Pillow's. Pillow decodes what libjpeg-turbo cannot. Frames of another size are resized by torchvision, or by
Pillow where a recipe asks for its bicubic filter. H, W = pixels.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Protocol

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from datasets.frames.modes import MOST_PIXELS, to_rgb
from datasets.regular import read_regular
from utils.errors import InputError, MissingFileError, printable

_JPEG = b"\xff\xd8"  # how every JPEG begins
_COLOURS = ("YCbCr", "Gray")  # CMYK is turned into RGB in another way than Pillow does


class FrameSource(Protocol):
    """Where the bytes of a frame come from."""

    def content(self, path: str) -> bytes | memoryview | NDArray[np.uint8]:
        """The bytes of the image that the data set names `path`, or its RGB pixels (H, W, 3) where they are at hand.

        Raises OSError, ValueError or InputError.
        """


class FrameFiles:
    """Frames in files of their own."""

    def content(self, path: str) -> bytes:
        """The bytes of the file."""
        return read_regular(path)


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
    content = _content(path, source)
    if isinstance(content, np.ndarray):
        pixels = content
    else:
        pixels = _decode_jpeg(frame_HW3, content)
        if pixels is not None and pixels.shape == frame_HW3.shape:
            return  # it was decoded in place
        if pixels is None:
            pixels = _decode_with_pillow(path, content)
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


def _content(path: str, source: FrameSource) -> bytes | memoryview | NDArray[np.uint8]:
    """The bytes or pixels of an image; raises MissingFileError / InputError naming the file."""
    try:
        return source.content(path)
    except InputError:
        raise
    except FileNotFoundError:
        advice = "if the data were moved, mend DATASETS.ROOT_DIR; a training goes on with --resume"
        raise MissingFileError(f"frame {printable(path)} does not exist; {advice}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"frame {printable(path)} cannot be opened ({reason})") from None


def _decode_jpeg(frame_HW3: NDArray[np.uint8], content: bytes | memoryview) -> NDArray[np.uint8] | None:
    """The pixels of a sound JPEG, in `frame_HW3` itself where they fit; None for what Pillow has to decode."""
    if content[:2] != _JPEG:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in _COLOURS or height * width > MOST_PIXELS:
            return None
        buffer = frame_HW3 if (height, width) == frame_HW3.shape[:2] else None
        return simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False, buffer=buffer)
    except ValueError:  # Pillow says what is wrong
        return None


def _decode_with_pillow(path: str, content: bytes | memoryview) -> NDArray[np.uint8]:
    """The pixels of any image as RGB (H, W, 3); raises InputError naming the file."""
    try:
        with Image.open(BytesIO(content)) as image:
            return np.array(to_rgb(image))
    except UnidentifiedImageError:
        raise InputError(f"frame {printable(path)} cannot be decoded (it is no image); restore the file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, for broken files
        raise InputError(f"frame {printable(path)} cannot be decoded ({error}); restore the file") from None
