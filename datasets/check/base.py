"""What the parts of a check hand to each other: problems, what was found on the disk, frames by split."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from datasets.frames import OpenedFrame
from datasets.tracklet import Fault, RawSplits, Tracklet

Frames = Mapping[str, Sequence[str]]  # split -> its distinct frame paths; '': of several splits together


@dataclass(frozen=True)
class Problem:
    """One thing to mend, or to leave out."""

    kind: str  # a heading
    text: str  # one line naming files below the root, rows or persons
    leave_out: tuple[tuple[str, str], ...] = ()  # (split or '', frame below the root) that a run can do without


@dataclass(frozen=True)
class Disk:
    """What was found on the disk."""

    frames: Mapping[str, OpenedFrame]  # by path
    bare: Set[str]  # absolute paths of folders that hold no file or do not exist although frames are named there


def counted(number: int, noun: str) -> str:
    """`1 frame`, `2,000 frames`, `2 processes`."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def split_tracklets(raw: RawSplits) -> dict[str, list[Tracklet]]:
    """The tracklets by the name that a list of exclusions has for their split."""
    val = [*raw.val_query, *raw.val_gallery]
    return {"train": [*raw.train], "query": [*raw.query], "gallery": [*raw.gallery], "val": val}


def split_frames(raw: RawSplits) -> dict[str, list[str]]:
    """The distinct frame paths of every split, in the order of the lists."""
    return {
        split: list(dict.fromkeys(frame for t in tracklets for frame in t.frames))
        for split, tracklets in split_tracklets(raw).items()
    }


def frames_to_check(splits: Iterable[RawSplits], several: bool) -> Frames:
    """The frames by the split in which a faulty one is to be left out: in a set of `several` splits in all of them."""
    parts = [split_frames(raw) for raw in splits]
    if not several:
        return parts[0]
    return {"": list(dict.fromkeys(path for part in parts for paths in part.values() for path in paths))}


def named_frames(splits: Iterable[RawSplits], faults: Sequence[Fault] = ()) -> set[str]:
    """The paths of all frames of the splits and of faulty rows."""
    paths = {path for raw in splits for paths in split_frames(raw).values() for path in paths}
    return paths.union(*(fault.frames for fault in faults))
