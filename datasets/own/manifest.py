"""The user's own pictures or videos, listed in one CSV file with or without boxes -> tracklets."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from datasets.own.cells import BOX, RowError, box_of, csv_rows, frame_number
from datasets.own.crops import Box, Cut, Cutter, crop_name, crop_path, cut_crops, cut_pictures
from datasets.own.names import SPLITS, NamedTracklet, number_tracklets
from datasets.own.video import cut_videos
from datasets.regular import read_regular
from datasets.tracklet import DataSet, Fault, OnFault, RawSplits, raise_or_warn
from utils.errors import InputError, MissingFileError, printable

_PICTURES = ("split", "person", "camera", "tracklet", "frame")
_VIDEOS = ("split", "person", "camera", "tracklet", "video", "frame")
_ROLES = ("split", "person", "camera")  # what a list needs for a training and a test alone


class _Row(NamedTuple):
    """A row that is valid by itself."""

    number: int  # line in the file, as an editor shows it
    split: str
    person: str
    camera: str
    tracklet: str
    source: str  # picture or video as listed
    frame: int  # of the video, 0-based; 0 for a picture
    box: Box | None

    @property
    def key(self) -> tuple[str, ...]:
        """The same for all rows of a tracklet."""
        return self.split, self.person, self.camera, self.tracklet


class _Table(NamedTuple):
    """A list whose header was read."""

    path: Path
    content: bytes
    header: list[str]
    rows: Iterator[tuple[int, list[str]]]  # line, stripped cells
    source: str  # the column of the pictures or videos
    allow_outside: bool  # whether a row may name a file outside of the list's folder
    optional: Sequence[str]  # columns that may be missing; of those other than camera single cells may be empty too

    def locate(self, source: str) -> str:
        """The path of a picture or video that the list names."""
        return os.path.join(str(self.path.parent), source)

    def refusal(self, source: str) -> str:
        """Why a row may not name the picture or video `source`, or ''."""
        parts = PurePath(source).parts
        if parts[:1] and parts[0].startswith("~") and os.path.expanduser(source) != source:
            return f"{source} begins with ~, which stands for nothing in a list: write the folder out"
        if self.allow_outside or not (os.path.isabs(source) or ".." in parts):
            return ""
        folder = os.path.join(os.path.abspath(self.path.parent), "")
        if os.path.abspath(self.locate(source)).startswith(folder):
            return ""
        return f"{source} lies outside of the list's folder; DATASETS.OUTSIDE allow admits such files"

    def fault(self, number: int, split: str, problem: object, source: str = "") -> Fault:
        """The fault of one row; it names the picture `source` as a frame to exclude, unless crops are the frames."""
        frames = (self.locate(source),) if source and self.source == "frame" and "x" not in self.header else ()
        message = printable(f"{self.path} row {number}: {problem}")
        return Fault(message, frames, str(self.path.parent), split if split in SPLITS else "")


def parse_manifest(
    root: str | Path, on_fault: OnFault = raise_or_warn, cache_dir: str = "", outside: str = "refuse"
) -> RawSplits:
    """Read a CSV file with the columns split, person, camera, tracklet, frame and optional x, y, w, h (pixels).

    `root` is the file, or a folder with one CSV file or a manifest.csv. A frame is a picture, named by its path from
    the file's folder; the rows of a tracklet are in temporal order. With boxes the crops are cut into `cache_dir` ('':
    the default one) and read from there. A path out of that folder is wrong unless `outside` is 'allow'. Rows that are
    wrong go to `on_fault`, by default an InputError naming file and row, and are left out. Raises MissingFileError when
    there is no such file, InputError when it is no CSV file in UTF-8, lacks columns or has no rows.
    """
    table = _read_table(Path(root), _PICTURES, outside)
    rows = _consistent_rows(table, on_fault)
    return number_tracklets(*_tracklets(table, rows, cache_dir, on_fault))


def parse_video(
    root: str | Path, on_fault: OnFault = raise_or_warn, cache_dir: str = "", outside: str = "refuse"
) -> RawSplits:
    """Read a CSV file with the columns split, person, camera, tracklet, video, frame and optional x, y, w, h (pixels).

    As `parse_manifest`, but `video` is the path of a video and `frame` the number of a frame in it, 0 being the first
    that is shown; the frames of a tracklet are sorted by it and are of one video. Crops are always cut.
    """
    table = _read_table(Path(root), _VIDEOS, outside)
    return number_tracklets(*_tracklets(table, _consistent_rows(table, on_fault), cache_dir, on_fault))


def read_listed_tracklets(path: Path, cache_dir: str = "", outside: str = "refuse") -> list[NamedTracklet]:
    """The tracklets of a file as `parse_manifest` reads it, or with a column video as `parse_video` does.

    The columns split, person and camera may be missing, or empty in any row, and split may be any text. Raises as these
    two do.
    """
    table = _read_table(path, (), outside, optional=_ROLES)
    return _tracklets(table, _consistent_rows(table, raise_or_warn), cache_dir, raise_or_warn)[1]


def _read_table(root: Path, columns: tuple[str, ...], outside: str, optional: Sequence[str] = ("camera",)) -> _Table:
    """`columns` are those of pictures or of videos; (): as the header says."""
    if outside not in ("refuse", "allow"):
        raise InputError(f"DATASETS.OUTSIDE {outside!r} must be one of refuse, allow")
    path = _find_table(root, columns)
    try:
        content = read_regular(path)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path} row {line} is not UTF-8 text ({error.reason}); save it as CSV in UTF-8") from None
    if "\0" in text:
        raise InputError(f"{path} is not UTF-8 text (it holds zero bytes); save it as CSV in UTF-8")
    rows = csv_rows(path, text)
    header = [name.lower() for name in next(rows, (0, []))[1]]
    columns = columns or (_VIDEOS if "video" in header else _PICTURES)
    _check_header(path, header, columns, optional)
    source = "video" if "video" in columns else "frame"
    return _Table(path, content, header, rows, source, outside == "allow", optional)


def _find_table(root: Path, columns: tuple[str, ...]) -> Path:
    if os.path.isfile(root):
        return root
    expected = f"expected is a CSV file with the columns {_described(columns)}, or a folder with one"
    if not os.path.isdir(root):
        state = "is neither a file nor a folder" if os.path.exists(root) else "does not exist"
        raise MissingFileError(f"DATASETS.ROOT_DIR {root} {state}; {expected}")
    try:
        names = sorted(name for name in os.listdir(root) if name.lower().endswith(".csv") and not name.startswith("."))
    except OSError as error:
        raise InputError(f"DATASETS.ROOT_DIR {root} cannot be read ({error.strerror})") from None
    if not names:
        raise MissingFileError(f"DATASETS.ROOT_DIR {root} holds no CSV file; {expected}")
    if len(names) > 1 and "manifest.csv" not in names:
        raise InputError(f"DATASETS.ROOT_DIR {root} holds several CSV files ({printable(', '.join(names))}); name one")
    return root / (names[0] if len(names) == 1 else "manifest.csv")


def _described(columns: Iterable[str], optional: Sequence[str] = ("camera",)) -> str:
    return f"{','.join(columns)} and, for boxes, {','.join(BOX)} ({', '.join(optional)} may be missing)"


def _check_header(path: Path, header: list[str], columns: tuple[str, ...], optional: Sequence[str]) -> None:
    if not header:
        raise InputError(f"{path} is empty; expected are the columns {_described(columns, optional)}")
    if "video" in header and "video" not in columns:
        raise InputError(f"{path} has a column video: use DATASETS.NAMES video")
    missing = [name for name in columns if name not in header and name not in optional]
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if missing and mark in "".join(header):
            raise InputError(f"{path} seems to be separated by {name}; save it with commas")
    if missing:
        found = printable(f"{','.join(header):.200}")
        needed = _described(columns, optional)
        raise InputError(f"{path} lacks {', '.join(missing)} (found: {found}); it needs {needed}")
    lacking = [name for name in BOX if name not in header]
    if 0 < len(lacking) < len(BOX):
        raise InputError(f"{path} lacks {', '.join(lacking)}: boxes need all four columns {','.join(BOX)}")
    twice = [name for name in (*columns, *BOX) if header.count(name) > 1]
    if twice:
        raise InputError(f"{path} has the column {twice[0]} twice; rename one")


def _consistent_rows(table: _Table, on_fault: OnFault) -> list[_Row]:
    """The rows that are valid and do not contradict an earlier one; the others are reported."""
    of_videos = table.source == "video"
    videos: dict[tuple, tuple[str, int]] = {}  # tracklet -> its video, and the first row that names it
    frames: dict[tuple, int] = {}  # frame of a tracklet -> the first row that names it
    filled: dict[str, tuple[list[str], int]] = {}  # tracklet of a list without roles -> cells, its first row
    rows = []
    for row in _rows(table, on_fault):
        if table.optional == _ROLES:
            cells = [name for name in _ROLES if getattr(row, name)]
            expected, first = filled.setdefault(row.tracklet, (cells, row.number))
            advice = "fill it in all rows or in none"
            for name in [name for name in _ROLES if (name in cells) != (name in expected)]:
                found = f"row {first} of tracklet {row.tracklet}"
                state = f"filled, but empty in {found}" if name in cells else f"empty, but filled in {found}"
                on_fault(table.fault(row.number, row.split, f"column {name} is {state}: {advice}"))
        video, first_of_video = videos.setdefault(row.key, (row.source, row.number))
        if of_videos and video != row.source:
            other = f"row {first_of_video} of the same tracklet of {video}"
            on_fault(table.fault(row.number, row.split, f"is of video {row.source}, but {other}; use two tracklets"))
            continue
        first = frames.setdefault((row.key, row.source, row.frame if of_videos else row.box), row.number)
        if first != row.number:
            problem = f"repeats row {first} (same frame in the same tracklet); delete one"
            on_fault(table.fault(row.number, row.split, problem))
            continue
        rows.append(row)
    if any(row.camera for row in rows) and "split" not in table.optional:
        for row in rows:
            if not row.camera:
                problem = "column camera is empty although other rows name one"
                on_fault(table.fault(row.number, row.split, problem))
        rows = [row for row in rows if row.camera]
    return rows


def _rows(table: _Table, on_fault: OnFault) -> Iterator[_Row]:
    """The rows that are valid by themselves; the others are reported."""
    width = len(table.header)
    empty = True
    for number, cells in table.rows:
        empty = False
        named = dict(zip(table.header, cells))
        try:
            if any(cells[width:]) or len(cells) < width:
                raise RowError(f"has {len(cells)} cells, the header {width}; put texts with a comma in quotes")
            row = _row(number, named, table)
            if problem := table.refusal(row.source):
                raise RowError(problem)
            yield row
        except RowError as problem:
            on_fault(table.fault(number, named.get("split", "").lower(), problem, named.get(table.source, "")))
    if empty:
        raise InputError(f"{table.path} has no rows below its header")


def _row(number: int, cells: dict[str, str], table: _Table) -> _Row:
    split, source = cells.get("split", "").lower(), table.source
    for name in ("person", "tracklet", source, "frame"):
        if not cells.get(name) and name not in table.optional:
            raise RowError(f"column {name} is empty")
    if split not in SPLITS and "split" not in table.optional:
        raise RowError(f"split is {cells['split']!r:.60}; it must be one of {', '.join(SPLITS)}")
    if any(ord(character) < 32 for character in cells[source]):
        raise RowError(f"column {source} holds a line break or control character; check the quotes")
    return _Row(
        number,
        sys.intern(split),
        sys.intern(cells.get("person", "")),
        sys.intern(cells.get("camera", "")),
        sys.intern(cells["tracklet"]),
        str(PurePath(cells[source])),  # ./a.jpg and a.jpg are one picture
        frame_number(cells["frame"]) if source == "video" else 0,
        box_of([cells.get(name, "") for name in BOX]),
    )


def _tracklets(table: _Table, rows: list[_Row], cache_dir: str, on_fault: OnFault) -> tuple[str, list[NamedTracklet]]:
    """(folder of the frames, tracklets) of pictures as they are, or of crops, without those that cannot be cut."""
    of_videos = table.source == "video"
    if not (of_videos or any(row.box for row in rows)):
        return str(table.path.parent), _grouped((row, table.locate(row.source)) for row in rows)
    cutter: Cutter = cut_videos if of_videos else cut_pictures
    named = [(row, crop_name(row.source, row.frame, row.box)) for row in rows]
    cuts = [Cut(row.number, row.split, table.locate(row.source), name, row.frame, row.box) for row, name in named]
    folder, left_out = cut_crops(table.path, table.content, cuts, cutter, cache_dir, on_fault)
    return folder, _grouped((row, crop_path(folder, name)) for row, name in named if name not in left_out)


def _grouped(frames: Iterable[tuple[_Row, str]]) -> list[NamedTracklet]:
    """Group (row, path of its frame) into tracklets, sorted by frame number."""
    groups: dict[tuple[str, ...], list[tuple[int, str]]] = {}
    for row, path in frames:
        groups.setdefault(row.key, []).append((row.frame, path))
    tracklets = []
    for (split, person, camera, tracklet), paths in groups.items():
        in_order = tuple(path for _, path in sorted(paths, key=lambda numbered: numbered[0]))
        name = "/".join(filter(None, (split, person, f"{camera}_{tracklet}" if camera else tracklet)))
        tracklets.append(NamedTracklet(split, person, camera, in_order, name))
    return tracklets


MANIFEST = DataSet(name="manifest", parse=parse_manifest)
VIDEO = DataSet(name="video", parse=parse_video)
