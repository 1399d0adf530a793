"""What is wrong with single frames: missing, undecodable, in an empty folder, far from a person's shape."""

import os
from collections import defaultdict
from collections.abc import Mapping, Set

from datasets.check.base import Disk, Frames, Problem, counted
from datasets.frames import OpenedFrame
from datasets.tracklet import below

MISSING = "missing frames"
UNDECODABLE = "frames that cannot be decoded"
NO_FILE = "folders without any file"
SHAPE = "frames far from a person's shape (height / width outside 1 to 6, or below 16 pixels high)"

_RATIOS = (1, 6)  # height / width of a person's box
_SMALLEST_HEIGHT = 16  # pixels
_TOLERATED_SHARE = 0.01  # of the frames of a split may be far from a person's shape


def frame_problems(root: str, frames: Frames, disk: Disk) -> list[Problem]:
    """All problems of single frames, each of which was opened."""
    problems = _faulty_frames(root, frames, disk)
    for split, odd in odd_frames(frames, disk.frames, tolerated=False).items():
        for path in odd:
            name, size = below(root, path), f"{disk.frames[path].width} wide, {disk.frames[path].height} high"
            problems.append(Problem(SHAPE, f"{split} {name} is {size}".lstrip(), ((split, name),)))
    return problems


def odd_frames(frames: Frames, opened: Mapping[str, OpenedFrame], *, tolerated: bool) -> dict[str, list[str]]:
    """Split -> its decoded frames that are far from a person's shape.

    Holds the splits in which the share of such frames is tolerated (a note), or those in which it is not (a problem).
    """
    found = {}
    for split, paths in frames.items():
        odd = [path for path in paths if _is_odd(opened[path])]
        if odd and (len(odd) <= _TOLERATED_SHARE * len(paths)) == tolerated:
            found[split] = odd
    return found


def _is_odd(frame: OpenedFrame) -> bool:
    low, high = _RATIOS
    upright = low * frame.width <= frame.height <= high * frame.width
    return not frame.fault and not (upright and frame.height >= _SMALLEST_HEIGHT)


def _faulty_frames(root: str, frames: Frames, disk: Disk) -> list[Problem]:
    """Folders without a file, each in the place of its frames, then other missing and undecodable frames."""
    splits_of: dict[str, list[str]] = defaultdict(list)  # path of a faulty frame -> the splits that name it
    for split, paths in frames.items():
        for path in paths:
            if disk.frames[path].fault:
                splits_of[path].append(split)
    entries_in: dict[str, list[tuple[str, str]]] = defaultdict(list)  # empty folder -> (split, frame) of its frames
    files = []
    for path, splits in splits_of.items():
        opened, name = disk.frames[path], below(root, path)
        entries = [(split, name) for split in splits]
        if folder := _empty_folder(path, disk.empty_folders):
            entries_in[folder] += entries
        else:
            kind = MISSING if opened.missing else UNDECODABLE
            files.append(Problem(kind, f"{' and '.join(splits)} {name} {opened.fault}".lstrip(), tuple(entries)))
    folders = []
    for folder, entries in entries_in.items():
        state = "holds no file" if os.path.isdir(folder) else "does not exist"
        named = counted(len({name for _, name in entries}), "frame")
        text = f"{below(os.path.abspath(root), folder)} {state}; the lists name {named} in it"
        folders.append(Problem(NO_FILE, text, tuple(entries)))
    return folders + files


def _empty_folder(path: str, empty_folders: Set[str]) -> str:
    """The one of the empty folders that `path` lies in; an empty text for none."""
    folder = os.path.dirname(os.path.abspath(path))
    while folder not in empty_folders:
        if folder == os.path.dirname(folder):
            return ""
        folder = os.path.dirname(folder)
    return folder
