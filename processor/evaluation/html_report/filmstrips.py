"""Filmstrips of tracklets: some frames side by side as one WebP picture, all of them together within a number of bytes.

H, W = pixels of a frame.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.bad_frames import BadFrames
from datasets.clips import read_nearest_into
from datasets.frames import FrameSource, FrameStore
from datasets.tracklet import Tracklet
from utils.environment import usable_cores
from utils.interrupt import check_interrupt
from utils.progress import progress

ASPECT = 2  # height / width of a frame, that of most data sets
_SAMPLE = 64  # tracklets that the size of all is guessed from
_MARGIN = 1.04  # of that guess
_PORTION = 256  # tracklets between two safe points


class Format(NamedTuple):
    """How a strip is made."""

    frames: int  # at most; odd, so that one is the middle
    height: int  # pixels
    quality: int  # of WebP, 1 to 100


# From the best to the smallest: with more tracklets frames, size and quality shrink.
FORMATS = (
    Format(5, 160, 80), Format(5, 144, 72), Format(5, 128, 64), Format(3, 128, 60), Format(3, 112, 54),
    Format(3, 96, 50), Format(3, 96, 38), Format(3, 80, 34), Format(3, 72, 28), Format(3, 64, 20),
    Format(1, 64, 40), Format(1, 64, 20), Format(1, 48, 10),
)  # fmt: skip


def make_strips(
    tracklets: Sequence[Tracklet], source: FrameSource, bad_frames: BadFrames | None, most_bytes: int
) -> tuple[list[bytes], Format]:
    """A WebP picture per tracklet, together at most `most_bytes` where the smallest format allows it, and the format.

    `bad_frames` is that of the splits: where it is None an unreadable frame raises InputError naming it.
    """
    sample = [tracklets[n] for n in sorted({round(n) for n in np.linspace(0, len(tracklets) - 1, _SAMPLE)})]
    for number, form in enumerate(FORMATS):
        is_last = number == len(FORMATS) - 1
        if len(tracklets) > 2 * len(sample) and not is_last:
            guess = sum(map(len, _strips(sample, form, source, bad_frames))) / len(sample) * len(tracklets)
            if guess * _MARGIN > most_bytes:
                continue
        bar = progress(_strips(tracklets, form, source, bad_frames), "filmstrips", "tracklet", total=len(tracklets))
        strips = list(bar)
        if is_last or sum(map(len, strips)) <= most_bytes:
            return strips, form
    raise AssertionError("the last format is always taken")


def num_frames(tracklet: Tracklet, form: Format) -> int:
    """How many frames the strip of a tracklet shows."""
    return min(form.frames, len(tracklet.frames))


def _strips(
    tracklets: Sequence[Tracklet], form: Format, source: FrameSource, bad_frames: BadFrames | None
) -> Iterator[bytes]:
    """The strips in order, made by several threads; Ctrl-C is heard between portions."""
    # A pack is read by one thread: its transaction is not made for several.
    with ThreadPoolExecutor(1 if isinstance(source, FrameStore) else usable_cores()) as threads:
        for start in range(0, len(tracklets), _PORTION):
            check_interrupt()
            portion = tracklets[start : start + _PORTION]
            known = None if bad_frames is None else dict(bad_frames.files)
            for strip, faults in threads.map(_strip, portion, repeat(form), repeat(source), repeat(known)):
                if faults:
                    bad_frames.add(faults)
                yield strip


def _strip(
    tracklet: Tracklet, form: Format, source: FrameSource, known: dict[str, str] | None
) -> tuple[bytes, dict[str, str]]:
    """One strip, and the frames that could not be read."""
    count, width = num_frames(tracklet, form), form.height // ASPECT
    places = [int((n + 0.5) * len(tracklet.frames) / count) for n in range(count)]
    frames = np.empty((count, form.height, width, 3), np.uint8)  # (frames, H, W, 3)
    faults = None if known is None else dict(known)
    read_nearest_into(frames, [(tracklet.frames, place) for place in places], source, faults)
    picture, coded = Image.fromarray(np.concatenate(list(chain(frames)), axis=1)), BytesIO()
    picture.save(coded, "WEBP", quality=form.quality, method=4)
    return coded.getvalue(), faults or {}
