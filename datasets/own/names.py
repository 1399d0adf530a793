"""Numbers for the persons and cameras of the user's own data, which are named by free texts."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from datasets.tracklet import RawSplits, Tracklet

SPLITS = ("train", "query", "gallery")


class NamedTracklet(NamedTuple):
    """A tracklet whose person and camera are the user's texts."""

    split: str  # one of SPLITS
    person: str
    camera: str  # empty: the data name no cameras
    frames: tuple[str, ...]  # image paths in temporal order
    name: str = ""  # [split/][person/][camera_]tracklet, where it is asked for


def number_tracklets(root: str, tracklets: Sequence[NamedTracklet]) -> RawSplits:
    """Persons become 1, 2, ... in the order of their sorted texts, cameras 0, 1, ... in natural order.

    A text is the same person in every split. Without any camera text all tracklets are of camera 0.
    """
    pids = {text: pid for pid, text in enumerate(sorted({t.person for t in tracklets}), start=1)}
    cameras = sorted({t.camera for t in tracklets if t.camera}, key=natural_key)
    camids = {text: camid for camid, text in enumerate(cameras)}
    numbered: dict[str, list[Tracklet]] = {split: [] for split in SPLITS}
    for t in tracklets:
        numbered[t.split].append(Tracklet(t.frames, pids[t.person], camids.get(t.camera, 0)))
    return RawSplits(
        root=root,
        **numbered,
        cameras=tuple(cameras),
        gallery_includes_query=False,
        persons={pid: text for text, pid in pids.items()},
    )


def natural_key(text: str) -> tuple:
    """Sort key that compares digits as numbers: c2 before c10; leading zeros count where nothing else differs."""
    parts: list = re.split(r"([0-9]+)", text)
    for index in range(1, len(parts), 2):
        # Without leading zeros, more digits are a larger number; int() would refuse thousands of digits.
        digits = parts[index].lstrip("0")
        parts[index] = (len(digits), digits)
    return tuple(parts), text
