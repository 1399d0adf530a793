"""Reading frames of tracklets where some may be unreadable: the nearest readable one takes the place of each.

What is read follows from the list of frames and from which files are unreadable, so that it is the same in every
process, batch and run. H, W = pixels.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from datasets.frames import FrameSource, read_frames_into
from utils.errors import InputError

FramePlace = tuple[Sequence[str], int]  # the paths of a tracklet's frames, and which of them


def read_nearest_into(
    frames_NHW3: NDArray[np.uint8],
    places: Sequence[FramePlace],
    source: FrameSource,
    faults: dict[str, str] | None,
    interpolation: str = "bilinear",
) -> None:
    """Decode each place's frame, or the nearest readable one of its tracklet, the earlier of two, into frame n.

    `faults`, path -> what is wrong in one line, names files known as unreadable, and new ones are added; with None an
    unreadable frame raises InputError. Also raises it for a tracklet without any readable frame.
    """
    try:
        return read_frames_into(frames_NHW3, [frames[place] for frames, place in places], source, interpolation)
    except InputError:
        if faults is None:
            raise
    holder: dict[str, int] = {}  # path -> number of the frame that holds it
    for number, (frames, place) in enumerate(places):
        for path in _nearest_first(frames, place):
            if path in holder:
                frames_NHW3[number] = frames_NHW3[holder[path]]
                break
            if path in faults:
                continue
            try:
                read_frames_into(frames_NHW3[number : number + 1], [path], source, interpolation)
                holder[path] = number
                break
            except InputError as error:
                faults[path] = error.line
        else:
            raise InputError(
                f"no frame of the tracklet that begins with {frames[0]} can be read ({len(frames)} in all; the first: "
                f"{faults[frames[0]]})"
            )


def _nearest_first(frames: Sequence[str], place: int) -> Iterator[str]:
    """The paths of the frames by their distance from `place`, the earlier of two first."""
    for distance in range(len(frames)):
        for other in (place - distance, place + distance)[: 1 + (distance > 0)]:
            if 0 <= other < len(frames):
                yield frames[other]
