"""Crops of pictures and videos, cut once into a cache folder as lossless PNG.

Below the cache folder a crop is called <picture or video as listed>/<frame>_<x>_<y>_<w>_<h>.png, or <frame>_whole.png
where no box is given; a picture has the frame number 0.
"""

import hashlib
import logging
import os
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from PIL import Image

from datasets.frames import to_rgb
from datasets.regular import check_regular
from datasets.sets.cache_folder import built_aside, default_cache_dir, read_record, write_record
from datasets.tracklet import Fault, OnFault
from utils.errors import InputError, printable
from utils.progress import progress

logger = logging.getLogger(__name__)

_VERSION = 2  # goes up when the same lists are to give other crops
_MOST_WAITING = 32  # crops in memory that are not written yet

Box = tuple[int, int, int, int]  # x, y, w, h in pixels; x, y is the top-left corner
Report = Callable[[Sequence[str], str], None]  # names of the crops; what is wrong, to follow the path of their source


class Cut(NamedTuple):
    """The crop that one row asks for."""

    row: int  # line in the list
    split: str
    source: str  # path of the picture or video
    name: str  # of the crop, below the cache folder
    frame: int  # 0-based, 0 for a picture
    box: Box | None  # None: the whole picture


# (cuts by source, folder for the crops, report) -> rows whose box reaches beyond its picture and was clipped.
Cutter = Callable[[Mapping[str, Sequence[Cut]], Path, Report], list[int]]


def crop_name(source: str, frame: int, box: Box | None) -> str:
    """The name of a crop, the same on every machine: the path `source` as listed, escaped, with forward slashes."""

    def escape(match: re.Match) -> str:
        return "".join(f"%{ord(character):02X}" for character in match[0])

    parts = [re.sub(r'[%<>:"|?*\\/]|^\.\.$', escape, part) for part in PurePath(source).parts]
    return "/".join([*parts, f"{frame}_{'_'.join(map(str, box)) if box else 'whole'}.png"])


def cut_crops(
    table: Path, content: bytes, cuts: Sequence[Cut], cutter: Cutter, cache_dir: str, on_fault: OnFault
) -> tuple[str, set[str]]:
    """Cut the crops of the list `table` (its bytes: `content`) into `cache_dir` ('': the default one), unless cached.

    Returns their folder and the names of the crops left out because of a fault. While the list and its pictures or
    videos do not change, a cached folder is used again, and its faults are reported again; a damaged one is cut again.
    Raises InputError when the cache cannot be written; no unfinished folder is left then.
    """
    cache = Path(cache_dir or default_cache_dir())
    stem = re.sub(r"[^\w.-]", "_", table.stem)[:40]
    folder = cache / f"{stem}-{_key(table, content, cuts)}"
    faults = _Faults(table, str(folder), cuts, on_fault)
    record = _read_record(folder, faults.cuts.keys())
    if record:
        for names, problem in record["faults"]:
            faults.report(names, problem)
        beyond = record["beyond"]
    else:
        if os.path.isdir(folder):
            logger.warning("the cache folder %s is damaged; its crops are cut again", folder)
        try:
            beyond = _cut(folder, cuts, cutter, faults)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"crops cannot be written into the cache folder {cache} ({reason})") from None
    if beyond:
        rows = ", ".join(map(str, beyond[:5]))
        logger.warning("%d boxes reach beyond their picture and end at its edge (rows %s)", len(beyond), rows)
    return str(folder), faults.names


class _Faults:
    """Reports the problems of crops as faults of their rows, and collects them."""

    def __init__(self, table: Path, root: str, cuts: Sequence[Cut], on_fault: OnFault) -> None:
        self.table = table
        self.root = root
        self.on_fault = on_fault
        self.cuts: dict[str, list[Cut]] = defaultdict(list)
        for cut in cuts:
            self.cuts[cut.name].append(cut)
        self.found: list[tuple[Sequence[str], str]] = []
        self.names: set[str] = set()

    def report(self, names: Sequence[str], problem: str) -> None:
        """Report one fault for all rows of the crops `names`, which are of one source."""
        self.found.append((names, problem))
        self.names.update(names)
        cuts = sorted((cut for name in names for cut in self.cuts[name]), key=lambda cut: cut.row)
        others = f" (and {len(cuts) - 1} more)" if len(cuts) > 1 else ""
        message = printable(f"{self.table} row {cuts[0].row}{others}: {cuts[0].source} {problem}")
        frames = tuple(crop_path(self.root, name) for name in names)
        splits = {cut.split for cut in cuts}
        self.on_fault(Fault(message, frames, self.root, split=splits.pop() if len(splits) == 1 else ""))


def _cut(folder: Path, cuts: Sequence[Cut], cutter: Cutter, faults: _Faults) -> list[int]:
    """Cut all crops into `folder`; returns the rows whose box reaches beyond its picture."""
    by_source: dict[str, list[Cut]] = defaultdict(list)
    for cut in {cut.name: cut for cut in cuts}.values():
        by_source[cut.source].append(cut)
    with built_aside(folder, lambda path: _read_record(path, faults.cuts.keys()) is not None) as temporary:
        beyond = cutter(by_source, temporary, faults.report)
        write_record(temporary, faults.cuts.keys() - faults.names, faults=faults.found, beyond=beyond)
    return beyond


def _read_record(folder: Path, names: Set[str]) -> dict[str, Any] | None:
    """The record with `faults` and `beyond`; None unless the folder holds the crops `names`, without those at fault."""
    record = read_record(folder)
    try:
        faulty = [crops for crops, _ in record["faults"]]
        left_out, files = {name for crops in faulty for name in crops}, record["files"].keys()
        whole = files | left_out == names and files.isdisjoint(left_out)
        well_formed = all(faulty) and all(isinstance(row, int) for row in record["beyond"])
    except (LookupError, TypeError, ValueError):
        return None
    return record if whole and well_formed else None


def crop_path(folder: str, name: str) -> str:
    """The path of the crop `name`."""
    return f"{folder}{os.sep}{name.replace('/', os.sep)}"


def _key(table: Path, content: bytes, cuts: Sequence[Cut]) -> str:
    """A hash that changes with the list and with the size, time and access right of its pictures or videos."""
    key = hashlib.sha256(os.fsencode(f"{_VERSION}\0{os.path.realpath(table)}\0"))
    key.update(content)
    key.update("\0".join(cut.name for cut in cuts).encode())
    for source in dict.fromkeys(cut.source for cut in cuts):
        try:
            found = os.stat(source)
            state = f"{found.st_size} {found.st_mtime_ns} {os.access(source, os.R_OK)}"
        except (OSError, ValueError):
            state = "missing"
        key.update(f"\0{state}".encode())
    return key.hexdigest()[:16]


def unusable(source: str) -> str:
    """Why `source` cannot be opened as a file, or ''."""
    try:
        check_regular(source)
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    return ""


def crops_of(
    picture: Image.Image, cuts: Iterable[Cut], folder: Path, report: Report, beyond: list[int], where: str = ""
) -> Iterator[tuple[Image.Image, Path]]:
    """(crop, its path in `folder`) of each box in the picture, clipped at its edges; boxes outside are reported.

    Adds the rows of clipped boxes to `beyond`; `where` begins what is reported.
    """
    width, height = picture.size
    for cut in cuts:
        x, y, w, h = cut.box or (0, 0, width, height)
        right, bottom = min(x + w, width), min(y + h, height)
        if x >= width or y >= height:
            box = f"the box {x},{y},{w},{h} (x,y,w,h)"
            report([cut.name], f"{where}is {width}x{height} pixels; {box} lies outside of that")
            continue
        if (right, bottom) != (x + w, y + h):
            beyond.append(cut.row)
        yield picture.crop((x, y, right, bottom)), folder / cut.name


def save_crop(crop: tuple[Image.Image, Path]) -> None:
    """Write a picture as PNG."""
    image, path = crop
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=1)


def in_threads(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Like `map`, in threads that take only a few items in advance; when it is closed, items not begun are dropped."""
    pool = ThreadPoolExecutor(os.cpu_count())
    running: deque[Future] = deque()
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) >= _MOST_WAITING:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def cut_pictures(cuts: Mapping[str, Sequence[Cut]], folder: Path, report: Report) -> list[int]:
    """Cut all crops of pictures into `folder`; decodes each picture once; returns the rows of clipped boxes."""
    beyond: list[int] = []

    def cut_picture(item: tuple[str, Sequence[Cut]]) -> list[tuple[Sequence[str], str]]:
        """Cut the crops of one picture; returns what is to be reported."""
        source, of_picture = item
        problems: list[tuple[Sequence[str], str]] = []
        problem = unusable(source)
        try:
            if not problem:
                with Image.open(source) as image:
                    picture = to_rgb(image)
        except Exception as error:  # Pillow raises many kinds for a broken file
            problem = f"cannot be decoded as a picture ({error})"
        if problem:
            return [([cut.name for cut in of_picture], problem)]
        for crop in crops_of(picture, of_picture, folder, lambda *problem: problems.append(problem), beyond):
            save_crop(crop)
        return problems

    with closing(in_threads(cut_picture, cuts.items())) as done:
        for problems in progress(done, "cutting crops", "picture", total=len(cuts)):
            for names, problem in problems:
                report(names, problem)
    return sorted(beyond)
