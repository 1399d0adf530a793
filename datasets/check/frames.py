"""What is wrong with single frames: missing, undecodable, in an empty folder, far from a person's shape."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set

from datasets.check.base import Disk, Frames, Problem, counted
from datasets.frames import OpenedFrame
from datasets.tracklet import below

MISSING = "missing frames"
UNDECODABLE = "frames that cannot be decoded"
NO_FILE = "folders without any file"
SHAPE = "frames far from a person's shape (height / width outside 1 to 6, or below 16 pixels high)"

_RATIOS = (1, 6)  # height / width of a person's box
_SMALLEST_HEIGHT = 16  # pixels
_ODD_SHARE = 0.01  # of the frames of a split that may be far from a person's shape


def frame_problems(root: str, frames: Frames, disk: Disk) -> list[Problem]:
    """All problems of single `frames`, which were all opened."""
    return [
        *_folder_problems(root, frames, disk),
        *_file_problems(root, frames, disk),
        *_shape_problems(root, frames, disk.frames),
    ]


def _broken(frames: Frames, disk: Disk) -> dict[str, list[str]]:
    """Path of each faulty frame -> the splits that name it."""
    splits: dict[str, list[str]] = defaultdict(list)
    for split, paths in frames.items():
        for path in paths:
            if disk.frames[path].fault:
                splits[path].append(split)
    return splits


def _bare_folder(path: str, bare: Set[str]) -> str:
    """The one of `bare` that `path` lies in; empty for none."""
    folder = os.path.dirname(os.path.abspath(path))
    while folder not in bare:
        if folder == os.path.dirname(folder):
            return ""
        folder = os.path.dirname(folder)
    return folder


def _folder_problems(root: str, frames: Frames, disk: Disk) -> list[Problem]:
    """Folders without a file, each in the place of its frames; one whose frames are all left out is in order."""
    lost: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, splits in _broken(frames, disk).items():
        if folder := _bare_folder(path, disk.bare):
            lost[folder] += [(split, below(root, path)) for split in splits]
    problems = []
    for folder, rows in lost.items():
        state = "holds no file" if os.path.isdir(folder) else "does not exist"
        named = counted(len({name for _, name in rows}), "frame")
        text = f"{below(os.path.abspath(root), folder)} {state}; the lists name {named} in it"
        problems.append(Problem(NO_FILE, text, tuple(rows)))
    return problems


def _file_problems(root: str, frames: Frames, disk: Disk) -> list[Problem]:
    """Missing and undecodable files."""
    problems = []
    for path, splits in _broken(frames, disk).items():
        if _bare_folder(path, disk.bare):
            continue
        opened, name = disk.frames[path], below(root, path)
        kind = MISSING if opened.missing else UNDECODABLE
        text = f"{' and '.join(splits)} {name} {opened.fault}".lstrip()
        problems.append(Problem(kind, text, tuple((split, name) for split in splits)))
    return problems


def odd_frames(frames: Frames, opened: Mapping[str, OpenedFrame]) -> dict[str, list[str]]:
    """Split -> paths of the decoded frames that are far from a person's shape."""
    return {split: [path for path in paths if _is_odd(opened[path])] for split, paths in frames.items()}


def is_tolerable(odd: Sequence[str], paths: Sequence[str]) -> bool:
    """Whether the frames `odd` among `paths` are few enough to be no more than a note."""
    return len(odd) <= _ODD_SHARE * len(paths)


def _is_odd(frame: OpenedFrame) -> bool:
    low, high = _RATIOS
    box = low * frame.width <= frame.height <= high * frame.width
    return not frame.fault and not (box and frame.height >= _SMALLEST_HEIGHT)


def _shape_problems(
    root: str, frames: Frames, opened: Mapping[str, OpenedFrame]
) -> list[Problem]:
    problems = []
    for split, odd in odd_frames(frames, opened).items():
        if is_tolerable(odd, frames[split]):
            continue
        for path in odd:
            name, size = below(root, path), f"{opened[path].width} wide, {opened[path].height} high"
            problems.append(Problem(SHAPE, f"{split} {name} is {size}".lstrip(), ((split, name),)))
    return problems
