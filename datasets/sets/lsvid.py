"""LS-VID (Li et al., ICCV 2019): official sequence lists -> tracklets."""

import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from datasets.sets.find_root import find_root, images_in, is_below, read_lines
from datasets.sets.matlab import query_and_gallery, query_rows, read_matlab73
from datasets.tracklet import DataSet, Fault, OnFault, RawSplits, Tracklet, raise_or_warn
from utils.errors import InputError

NUM_CAMERAS = 15
_JUNK = -1
# Copies of the set come in two layouts; each names the train list, the test list and the query file.
_LAYOUTS = (
    ("list_sequence/list_seq_train.txt", "list_sequence/list_seq_test.txt", "test/data/info_test.mat"),
    ("info/list_sequence/list_seq_train.txt", "info/list_sequence/list_seq_test.txt", "info/data/info_test.mat"),
)
# No public loader reads the validation part; these names are formed like those of the test part.
_VAL_LAYOUTS = (
    ("list_sequence/list_seq_val.txt", "val/data/info_val.mat"),
    ("info/list_sequence/list_seq_val.txt", "info/data/info_val.mat"),
)
_HOW_TO_GET = "LS-VID is handed out by its authors (Li et al., ICCV 2019) on request"


class _Line(NamedTuple):
    prefix: str  # of the frames' paths below the root
    pid: int


@dataclass
class _Images:
    """Image names by folder; each folder is listed once, while a glob would list it for every tracklet."""

    root: str
    _names: dict[str, list[str]] = field(default_factory=dict)

    def starting_with(self, prefix: str) -> list[str]:
        """Paths of the images that glob(prefix + '*') finds, sorted."""
        folder, _, start = prefix.rpartition("/")
        if folder not in self._names:
            self._names[folder] = images_in(os.path.join(self.root, folder))
        names = self._names[folder]
        first = last = bisect_left(names, start)
        while last < len(names) and names[last].startswith(start):
            last += 1
        base = str(Path(self.root, folder)) + os.sep
        return [base + name for name in names[first:last]]


def parse_lsvid(root: str | Path, on_fault: OnFault = raise_or_warn, validation: bool = True) -> RawSplits:
    """Read the LS-VID lists into 2,831 training, 3,504 query and 7,829 other gallery tracklets (official files).

    `root` is the folder that holds tracklet_train/ and tracklet_test/, or its parent. Lines of person -1 (junk) are
    dropped. A list of validation sequences beside the others is read too, unless `validation` is False. Nothing is
    written. Lines that are wrong go to `on_fault`, by default an InputError (a ValueError) naming list and line, and
    are left out. Raises MissingFileError (a FileNotFoundError) naming the first missing file, InputError for a list
    that cannot be read at all.
    """
    folder, layout = find_root(Path(root), "LS-VID", _LAYOUTS, _HOW_TO_GET)
    train_list, test_list, test_info = (folder / name for name in _LAYOUTS[layout])
    train_lines = _read_list(train_list, on_fault)
    test_lines = _read_list(test_list, on_fault)
    for path, lines in ((train_list, train_lines), (test_list, test_lines)):
        if not lines:
            raise InputError(f"{path} names no tracklet; expected lines of a path prefix, a space and a person")
    test_rows = _query_rows(test_info, test_lines)
    train = _tracklets(train_lines, train_list, str(folder), {}, "train", on_fault)
    test = _tracklets(test_lines, test_list, str(folder), dict.fromkeys(test_rows, "query"), "gallery", on_fault)
    query, gallery = query_and_gallery(test, test_rows)
    val_query, val_gallery = _validation(folder, *_VAL_LAYOUTS[layout], on_fault) if validation else ([], [])
    return RawSplits(
        root=str(folder),
        train=list(train.values()),
        query=query,
        gallery=gallery,
        cameras=tuple(str(camera) for camera in range(1, NUM_CAMERAS + 1)),
        gallery_includes_query=True,
        val_query=val_query,
        val_gallery=val_gallery,
    )


def _validation(
    folder: Path, list_name: str, info_name: str, on_fault: OnFault
) -> tuple[list[Tracklet], list[Tracklet]]:
    """(queries, gallery) of the validation part; both are empty where the copy has none."""
    path, info = folder / list_name, folder / info_name
    lines = _read_list(path, on_fault) if os.path.exists(path) else []
    named = [line for line in lines if line]
    if not named:
        return [], []
    images = _Images(str(folder))
    if not any(images.starting_with(line.prefix) for line in named if is_below(line.prefix)):
        # Training and testing do not need these images.
        message = f"{path}: none of its {len(named):,} tracklets has an image below {folder}; validation part left out"
        on_fault(Fault(message, root=str(folder), split="val", blocks=False))
        return [], []
    tracklets = _tracklets(lines, path, str(folder), {}, "val", on_fault)
    if os.path.exists(info):
        return query_and_gallery(tracklets, _query_rows(info, lines))
    # Without a file of queries: the first tracklet of each person in each camera.
    first = {(t.pid, t.camid): row for row, t in reversed(tracklets.items())}
    return query_and_gallery(tracklets, sorted(first.values()))


def _read_list(path: Path, on_fault: OnFault) -> list[_Line | None]:
    """Prefix and person of each line; None for a wrong line, because the queries count the lines."""
    lines: list[_Line | None] = []
    for number, line in enumerate(read_lines(path, "tracklets"), start=1):
        prefix, _, person = line.rpartition(" ")
        # No person has ten digits; int() raises for thousands of them.
        if prefix and re.fullmatch(r"-1|[0-9]{1,9}", person):
            lines.append(_Line(prefix, int(person)))
            continue
        expected = "a path prefix, a space and a person (a whole number, -1 for junk)"
        on_fault(Fault(f"{path} line {number}: expected {expected}, found {line!r:.80}"))
        lines.append(None)
    return lines


def _tracklets(
    lines: Sequence[_Line | None], source: Path, root: str, splits: dict[int, str], split: str, on_fault: OnFault
) -> dict[int, Tracklet]:
    """0-based row of the list -> tracklet, without junk; `splits` names the split of rows that are not of `split`."""
    images = _Images(root)
    tracklets = {}
    for row, line in enumerate(lines):
        if line is None or line.pid == _JUNK:
            continue
        frames: list[str] = []
        try:
            frames = _frames(line.prefix, images)
            tracklets[row] = Tracklet(tuple(frames), line.pid, _camera(frames) - 1)
        except InputError as error:
            message = f"{source} line {row + 1}: {error}"
            # Without frames the prefix itself can be named in DATASETS.EXCLUDE.
            named = tuple(frames) or ((root + os.sep + line.prefix,) if is_below(line.prefix) else ())
            on_fault(Fault(message, named, root, splits.get(row, split)))
    return tracklets


def _frames(prefix: str, images: _Images) -> list[str]:
    if not is_below(prefix):
        raise InputError(f"{prefix!r} is not a path below the folder of LS-VID")
    frames = images.starting_with(prefix)
    if not frames:
        raise InputError(
            f"no image starts with {prefix!r} in {images.root}; unpack the images there, or name {prefix!r} "
            "in DATASETS.EXCLUDE; do not delete the line, because the queries count the lines"
        )
    return frames


def _camera(frames: Sequence[str]) -> int:
    """The camera (1-based) in the names of all frames; raises InputError where they name several, or none."""
    cameras: dict[str, str] = {}  # camera field -> first frame with it
    for frame in frames:
        name = frame.rpartition(os.sep)[2]
        fields = os.path.splitext(name)[0].split("_", 3)
        if len(fields) < 3:
            raise InputError(f"frame {name!r} needs three fields parted by '_', the third of them the camera")
        cameras.setdefault(fields[2], name)
    for text, name in cameras.items():
        if not re.fullmatch(r"0*[1-9][0-9]?", text) or int(text) > NUM_CAMERAS:
            raise InputError(f"frame {name!r}: camera {text!r}, its third field, is not one of 1..{NUM_CAMERAS}")
    numbers = {int(text): name for text, name in cameras.items()}
    if len(numbers) > 1:
        raise InputError(f"the tracklet mixes cameras: {', '.join(map(repr, list(numbers.values())[:2]))}")
    return next(iter(numbers))


def _query_rows(path: Path, lines: Sequence[_Line | None]) -> list[int]:
    """0-based rows of the list."""
    persons = [line.pid if line else None for line in lines]
    return query_rows(read_matlab73(path, "query"), path, "query", persons, {_JUNK: "a junk tracklet"})


LSVID = DataSet(
    name="LS-VID",
    parse=parse_lsvid,
    official={"train": (842, 2_831), "query": (2_730, 3_504), "gallery": (2_730, 7_829)},
    official_test=(3_504, 11_333),
    paper={"mAP": 83.8, "rank1": 90.4, "rank5": 97.1},
    train_items="chunks 48",
    distractor=0,
    may_number_twice=True,
)
