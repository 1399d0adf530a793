"""What the parts of a check share: problems, what is on the disk, the frames of each split."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from datasets.frames import OpenedFrame
from datasets.tracklet import Fault, RawSplits, Tracklet

Frames = Mapping[str, Sequence[str]]  # split -> its distinct frame paths; '' stands for all splits together


@dataclass(frozen=True)
class Problem:
    """One thing to mend or to leave out."""

    kind: str  # the heading under which it is listed
    text: str  # one line naming files below the root, rows or persons
    leave_out: tuple[tuple[str, str], ...] = ()  # (split or '', frame below the root) whose exclusion solves it


@dataclass(frozen=True)
class Disk:
    """What was found on the disk."""

    frames: Mapping[str, OpenedFrame]  # by path
    empty_folders: Set[str]  # absolute paths; the lists name frames in them, but they hold no file or do not exist


def counted(number: int, noun: str) -> str:
    """`1 frame`, `2,000 frames`, `2 batches`."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number:,} {noun}{ending}"


def first_of(names: Sequence[str], count: int) -> str:
    """The first `count` of the names, with dots where there are more."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def split_tracklets(raw: RawSplits) -> dict[str, list[Tracklet]]:
    """The tracklets of each split; the splits are called as in a list of exclusions."""
    val = [*raw.val_query, *raw.val_gallery]
    return {"train": [*raw.train], "query": [*raw.query], "gallery": [*raw.gallery], "val": val}


def split_frames(raw: RawSplits) -> dict[str, list[str]]:
    """The distinct frame paths of each split, in the order of the lists."""
    return {
        split: list(dict.fromkeys(frame for t in tracklets for frame in t.frames))
        for split, tracklets in split_tracklets(raw).items()
    }


def frames_to_check(splits: Iterable[RawSplits], several: bool) -> Frames:
    """The frames by the split that a faulty one is left out of; a set with `several` splits leaves it out of all."""
    parts = [split_frames(raw) for raw in splits]
    if not several:
        return parts[0]
    return {"": list(dict.fromkeys(path for part in parts for paths in part.values() for path in paths))}


def named_frames(splits: Iterable[RawSplits], faults: Sequence[Fault] = ()) -> set[str]:
    """The paths of all frames of the splits and of faulty rows."""
    paths = {path for raw in splits for paths in split_frames(raw).values() for path in paths}
    return paths.union(*(fault.frames for fault in faults))
