"""What is wrong between the lists of a data set, its frames and the protocol of its test."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from datasets.check_files import ImageFolders
from datasets.exclusion import below
from datasets.frame_check import OpenedFrame
from datasets.own_ids import printable
from datasets.tracklet import Fault, RawSplits, Tracklet

FAULTY_ROWS = "faults of the lists"
MISSING = "missing frames"
UNDECODABLE = "frames that cannot be decoded"
NO_FILE = "folders without any file"
NO_TRACKLET = "splits without tracklets"
LEAK = "persons in train and in test"
NO_MATCH = "queries without a true match in the ranked gallery"
SAME_PICTURE = "the same picture in two splits"
SHAPE = "frames far from a person's shape (height / width outside 1 to 6, or below 16 pixels high)"
UNLISTED = "image folders with files that no list names"

_RATIOS = (1, 6)  # height / width of a person's box
_SMALLEST_HEIGHT = 16  # pixels
_ODD_SHARE = 0.01  # of the frames of a split that may be far from a person's shape


@dataclass(frozen=True)
class Problem:
    """One thing to mend, or to leave out."""

    kind: str  # one of the headings above
    text: str  # one line naming files below the root, rows or persons
    leave_out: tuple[tuple[str, str], ...] = ()  # (split or '', frame below the root) that a run can do without


@dataclass(frozen=True)
class Ranking:
    """What the test compares a query with."""

    includes_query: bool  # queries are gallery items too
    camera_filter: bool  # the query's person in the query's camera is left out
    distractor: int | None  # the id that stands for nobody
    ids_are_shared: bool = True  # equal ids in train and test are one person


@dataclass(frozen=True)
class Disk:
    """What was found on the disk."""

    frames: Mapping[str, OpenedFrame]  # by path
    bare: Set[str]  # paths of folders that hold no file or do not exist although frames are named there


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


def named_frames(raw: RawSplits, faults: Sequence[Fault] = ()) -> set[str]:
    """The paths of all frames of the splits and of faulty rows."""
    paths = {path for paths in split_frames(raw).values() for path in paths}
    return paths.union(*(fault.frames for fault in faults))


def row_problems(faults: Sequence[Fault]) -> list[Problem]:
    """What a parser found wrong in the lists."""
    return [
        Problem(FAULTY_ROWS, fault.message, tuple((fault.split, below(fault.root, path)) for path in fault.frames))
        for fault in faults
        if not _is_remark(fault)
    ]


def row_notes(faults: Sequence[Fault]) -> list[str]:
    """What a parser remarks on parts that no training and no test reads."""
    return [fault.message for fault in faults if _is_remark(fault)]


def _is_remark(fault: Fault) -> bool:
    return fault.split == "val" and not fault.blocks


def folder_problems(root: str, folders: ImageFolders, faults: Sequence[Fault], junk: str | None) -> list[Problem]:
    """Empty folders that no fault of the lists tells of, and images that no list names.

    Images whose names begin with `junk` need no list; with None no image does.
    """
    told = " ".join(fault.message for fault in faults)
    empty = sorted(folder for folder in folders.stray if f"{printable(folder)} " not in told)
    problems = [Problem(NO_FILE, f"{below(root, folder)} holds no file") for folder in empty]
    for folder, paths in folders.unnamed.items() if junk is not None else ():
        names = [os.path.basename(path) for path in paths]
        names = [name for name in names if not name.startswith(junk)]
        if names:
            few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            text = f"{below(root, folder)} holds {counted(len(names), 'image file')} that no list names: {few}"
            problems.append(Problem(UNLISTED, text))
    return problems


def find_problems(raw: RawSplits, disk: Disk, ranking: Ranking) -> list[Problem]:
    """All problems of the tracklets in `raw`, whose frames were all opened."""
    frames = split_frames(raw)
    return [
        *_empty_splits(raw),
        *_folder_problems(raw.root, frames, disk),
        *_frame_problems(raw.root, frames, disk),
        *(_leaks(raw, ranking.distractor) if ranking.ids_are_shared else ()),
        *_unmatched_queries(raw, ranking),
        *_same_pictures(raw.root, frames, disk.frames),
        *_shape_problems(raw.root, frames, disk.frames),
    ]


def _empty_splits(raw: RawSplits) -> list[Problem]:
    tracklets = split_tracklets(raw)
    return [
        Problem(NO_TRACKLET, f"{split} has no tracklet")
        for split in ("train", "query", "gallery")
        if not tracklets[split]
    ]


def _broken(frames: Mapping[str, Sequence[str]], disk: Disk) -> dict[str, list[str]]:
    """Path of each faulty frame -> the splits that name it."""
    splits: dict[str, list[str]] = defaultdict(list)
    for split, paths in frames.items():
        for path in paths:
            if disk.frames[path].fault:
                splits[path].append(split)
    return splits


def _bare_folder(path: str, bare: Set[str]) -> str:
    """The one of `bare` that `path` lies in; empty for none."""
    folder = os.path.dirname(path)
    while folder not in bare:
        if folder == os.path.dirname(folder):
            return ""
        folder = os.path.dirname(folder)
    return folder


def _folder_problems(root: str, frames: Mapping[str, Sequence[str]], disk: Disk) -> list[Problem]:
    """Folders without a file, each in the place of its frames; one whose frames are all left out is in order."""
    lost: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, splits in _broken(frames, disk).items():
        if folder := _bare_folder(path, disk.bare):
            lost[folder] += [(split, below(root, path)) for split in splits]
    problems = []
    for folder, rows in lost.items():
        state = "holds no file" if os.path.isdir(folder) else "does not exist"
        named = counted(len({name for _, name in rows}), "frame")
        text = f"{below(root, folder)} {state}; the lists name {named} in it"
        problems.append(Problem(NO_FILE, text, tuple(rows)))
    return problems


def _frame_problems(root: str, frames: Mapping[str, Sequence[str]], disk: Disk) -> list[Problem]:
    """Missing and undecodable files."""
    problems = []
    for path, splits in _broken(frames, disk).items():
        if _bare_folder(path, disk.bare):
            continue
        opened, name = disk.frames[path], below(root, path)
        kind = MISSING if opened.missing else UNDECODABLE
        text = f"{' and '.join(splits)} {name} {opened.fault}"
        problems.append(Problem(kind, text, tuple((split, name) for split in splits)))
    return problems


def shared_ids(raw: RawSplits) -> set[int]:
    """Ids of train that the test has too."""
    return {t.pid for t in raw.train} & {t.pid for t in (*raw.query, *raw.gallery)}


def _leaks(raw: RawSplits, distractor: int | None) -> list[Problem]:
    """Persons to train with who are in the test too."""
    tests = {"query": {t.pid for t in raw.query}, "gallery": {t.pid for t in raw.gallery}}
    problems = []
    for pid in sorted(shared_ids(raw) - {distractor}):
        mine = [t for t in raw.train if t.pid == pid]
        places = " and ".join(split for split, pids in tests.items() if pid in pids)
        text = f"person {raw.person(pid)} is in train ({counted(len(mine), 'tracklet')}) and in {places}"
        rows = tuple(dict.fromkeys(("train", below(raw.root, frame)) for t in mine for frame in t.frames))
        problems.append(Problem(LEAK, text, rows))
    return problems


def _unmatched_queries(raw: RawSplits, ranking: Ranking) -> list[Problem]:
    gallery = [*raw.gallery, *(raw.query if ranking.includes_query else ())]
    of_person = Counter(t.pid for t in gallery)
    of_view = Counter((t.pid, t.camid) for t in gallery)
    problems = []
    for t in raw.query:
        # The view holds the query itself; without the filter the query alone is left out.
        ignored = of_view[t.pid, t.camid] if ranking.camera_filter else int(ranking.includes_query)
        if of_person[t.pid] > ignored:
            continue
        camera = f", camera {raw.cameras[t.camid]}" if raw.cameras else ""
        names = [below(raw.root, frame) for frame in t.frames]
        text = f"person {raw.person(t.pid)}{camera}, {counted(len(names), 'frame')} from {names[0]}"
        problems.append(Problem(NO_MATCH, text, tuple(("query", name) for name in names)))
    return problems


def _same_pictures(
    root: str, frames: Mapping[str, Sequence[str]], opened: Mapping[str, OpenedFrame]
) -> list[Problem]:
    """Files of equal content in train and test, or in query and gallery; the copy named first can be left out."""
    first: dict[str, dict[bytes, str]] = {"query": {}, "gallery": {}}
    for split, files in first.items():
        for path in frames[split]:
            files.setdefault(opened[path].digest, path)
    problems = []
    for split, others in (("train", ("query", "gallery")), ("gallery", ("query",))):
        for path in frames[split]:
            digest = opened[path].digest
            other = next((other for other in others if digest in first[other]), None)
            if digest and other:
                name, twin = below(root, path), below(root, first[other][digest])
                problems.append(Problem(SAME_PICTURE, f"{split} {name} is {other} {twin}", ((split, name),)))
    return problems


def odd_frames(frames: Mapping[str, Sequence[str]], opened: Mapping[str, OpenedFrame]) -> dict[str, list[str]]:
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
    root: str, frames: Mapping[str, Sequence[str]], opened: Mapping[str, OpenedFrame]
) -> list[Problem]:
    problems = []
    for split, odd in odd_frames(frames, opened).items():
        if is_tolerable(odd, frames[split]):
            continue
        for path in odd:
            name, size = below(root, path), f"{opened[path].width} wide, {opened[path].height} high"
            problems.append(Problem(SHAPE, f"{split} {name} is {size}", ((split, name),)))
    return problems
