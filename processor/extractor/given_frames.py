"""Tracklets as a caller of the extractor has them: files, Pillow's images, or pixels in memory.

n frames of a tracklet, H, W = pixels.
"""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.frames import FILES, check_size, to_rgb
from utils.errors import InputError, MissingFileError, printable

_EXPECTED = "expected are paths, PIL images, or uint8 pixels in RGB (n, H, W, 3)"


class GivenFrames:
    """The source of frames that are partly files and partly in memory; a frame in memory has a name instead of a path.

    A path is kept as it is, so that a frame has the bytes of its file.
    """

    def __init__(self) -> None:
        self._in_memory: dict[str, Image.Image | NDArray[np.uint8]] = {}

    def add(self, tracklet: Any, number: int) -> tuple[str, ...]:
        """The paths or names of the frames of tracklet `number`; raises InputError for what is no tracklet."""
        where = f"tracklet {number}"
        if isinstance(tracklet, np.ndarray):
            if tracklet.dtype != np.uint8 or tracklet.ndim != 4 or tracklet.shape[3] != 3:
                raise InputError(f"{where} is an array of {tracklet.dtype} {tracklet.shape}; {_EXPECTED}")
        elif isinstance(tracklet, (str, bytes, os.PathLike, Image.Image)) or not isinstance(tracklet, Iterable):
            raise InputError(f"{where} is a {type(tracklet).__name__}, not a list of frames; {_EXPECTED}")
        frames = tuple(self._name(frame, f"{place} of {where}") for place, frame in enumerate(tracklet))
        if not frames:
            raise InputError(f"{where} has no frames")
        return frames

    def _name(self, frame: Any, where: str) -> str:
        """The path of a file; of a frame in memory a name, which no path equals."""
        if isinstance(frame, (str, os.PathLike)):
            return os.path.join(os.curdir, os.fspath(frame))  # an absolute path stays as it is
        if isinstance(frame, np.ndarray):
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
                raise InputError(
                    f"frame {where} is an array of {frame.dtype} {frame.shape}, not uint8 (H, W, 3) in RGB"
                )
        elif not isinstance(frame, Image.Image):
            raise InputError(f"frame {where} is a {type(frame).__name__}; {_EXPECTED}")
        self._in_memory[where] = frame
        return where

    def content(self, path: str) -> bytes | memoryview | NDArray[np.uint8]:
        """The bytes of a file, or the RGB pixels (H, W, 3) of a frame in memory."""
        frame = self._in_memory.get(path)
        if frame is None:
            try:
                return FILES.content(path)
            except FileNotFoundError:
                raise MissingFileError(f"frame {printable(path)} does not exist") from None
        try:
            if isinstance(frame, Image.Image):
                return np.array(to_rgb(frame))  # decoded only now, if it was opened from a file
            check_size(frame.shape[1], frame.shape[0])
        except Exception as error:  # Pillow raises many kinds for broken files
            raise InputError(f"frame {path} cannot be decoded ({error})") from None
        return np.array(frame, order="C")  # a view may be mirrored (BGR turned to RGB) or read-only
