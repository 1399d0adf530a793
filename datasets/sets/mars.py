"""MARS (Zheng et al., ECCV 2016): official track lists -> tracklets."""

import os
from pathlib import Path

import numpy as np

from datasets.sets.find_root import find_root
from datasets.sets.matlab import check_whole_numbers
from datasets.sets.matlab5 import read_matlab5
from datasets.tracklet import DataSet, Fault, OnFault, RawSplits, Tracklet, raise_or_warn
from utils.errors import InputError

NUM_CAMERAS = 6
_JUNK, _DISTRACTOR = -1, 0
_LISTS = (
    "info/train_name.txt",
    "info/test_name.txt",
    "info/tracks_train_info.mat",
    "info/tracks_test_info.mat",
    "info/query_IDX.mat",
)
_HOW_TO_GET = (
    "MARS is distributed by its authors (zheng-lab.cecs.anu.edu.au/Project/project_mars.html: bbox_train, bbox_test); "
    "the lists are the info folder of github.com/liangzheng06/MARS-evaluation"
)


def parse_mars(root: str | Path, on_fault: OnFault = raise_or_warn) -> RawSplits:
    """Read the MARS lists into 8,298 training, 1,980 query and 9,330 other gallery tracklets (official files).

    `root` is the folder that holds info/, bbox_train/ and bbox_test/, or its parent. Junk (pid -1) is dropped, pid 0
    stays in the gallery as distractors. Nothing is written. Rows that are wrong go to `on_fault`, by default an
    InputError (a ValueError) naming list and row, and are left out. Raises MissingFileError (a FileNotFoundError)
    naming the first missing file, InputError for a list that cannot be read at all.
    """
    root, _ = find_root(Path(root), "MARS", [_LISTS], _HOW_TO_GET)
    info = root / "info"
    train_info = _track_info(info / "tracks_train_info.mat", "track_train_info")
    test_info = _track_info(info / "tracks_test_info.mat", "track_test_info")
    query_rows = _query_rows(info / "query_IDX.mat", test_info)
    train_names = _frame_names(info / "train_name.txt")
    test_names = _frame_names(info / "test_name.txt")

    for rows, names, stem in ((train_info, train_names, "train"), (test_info, test_names, "test")):
        _check_counts(rows, names, info, stem, on_fault)
    train = _tracklets(train_info, train_names, root / "bbox_train", info / "tracks_train_info.mat", on_fault)
    test = _tracklets(test_info, test_names, root / "bbox_test", info / "tracks_test_info.mat", on_fault)
    in_query = set(query_rows)
    return RawSplits(
        root=str(root),
        train=[t for t in train.values() if t.pid != _JUNK],
        query=[test[row] for row in query_rows if row in test],
        gallery=[t for row, t in test.items() if row not in in_query and t.pid != _JUNK],
        cameras=tuple(str(camera) for camera in range(1, NUM_CAMERAS + 1)),
        gallery_includes_query=True,
    )


def _track_info(path: Path, variable: str) -> np.ndarray:
    """(n, 4) int64: first row, last row (1-based, inclusive), person, camera (1-based)."""
    info = read_matlab5(path, variable)
    if info.ndim != 2 or info.shape[1] != 4 or not len(info):
        raise InputError(f"{path}: {variable} needs 4 columns (first, last, person, camera), has shape {info.shape}")
    check_whole_numbers(info, path, variable)
    return info.astype(np.int64)


def _query_rows(path: Path, test_info: np.ndarray) -> list[int]:
    """0-based rows of the test list."""
    numbers = read_matlab5(path, "query_IDX")
    check_whole_numbers(numbers, path, "query_IDX")
    rows = numbers.astype(np.int64).ravel() - 1
    if not len(rows):
        raise InputError(f"{path}: query_IDX names no query")
    wrong = rows[(rows < 0) | (rows >= len(test_info))]
    if len(wrong):
        raise InputError(f"{path}: query {wrong[0] + 1} is not a row of the {len(test_info)} test tracklets")
    nobody = rows[test_info[rows, 2] == _DISTRACTOR]
    if len(nobody):
        raise InputError(f"{path}: query {nobody[0] + 1} is a distractor (person {_DISTRACTOR}), no one to find")
    junk = rows[test_info[rows, 2] == _JUNK]
    if len(junk):
        raise InputError(f"{path}: query {junk[0] + 1} is a junk tracklet (person {_JUNK})")
    if len(set(rows.tolist())) != len(rows):
        raise InputError(f"{path}: a test tracklet is named twice")
    return rows.tolist()


def _frame_names(path: Path) -> list[str]:
    # The official lists end their lines with CRLF.
    try:
        return path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a list of frame names ({error})") from None


def _check_counts(info: np.ndarray, names: list[str], folder: Path, stem: str, on_fault: OnFault) -> None:
    """Report it unless all tracklets together have as many frames as there are names, as in the official lists."""
    covered = int((info[:, 1] - info[:, 0] + 1).sum())
    if covered != len(names):
        table, listed = folder / f"tracks_{stem}_info.mat", folder / f"{stem}_name.txt"
        message = f"{table} has tracklets of {covered:,} frames together, {listed} names {len(names):,}"
        on_fault(Fault(message, blocks=False))


def _tracklets(
    info: np.ndarray, names: list[str], folder: Path, source: Path, on_fault: OnFault
) -> dict[int, Tracklet]:
    """0-based row of `info` -> tracklet; frame names must agree with the row's person and camera."""
    base, root = str(folder) + os.sep, str(folder.parent)
    tracklets = {}
    for row, (first, last, pid, camera) in enumerate(info.tolist()):
        where = f"{source} row {row + 1}"
        if not 1 <= first <= last <= len(names):
            on_fault(Fault(f"{where}: frames {first}..{last} do not lie in a list of {len(names)} names"))
            continue
        frame_names = names[first - 1 : last]
        # The folder of a frame is the first four characters of its name: "00-1" for junk.
        frames = tuple(f"{base}{name[:4]}{os.sep}{name}" for name in frame_names)
        if not 1 <= camera <= NUM_CAMERAS:
            on_fault(Fault(f"{where}: camera {camera} is not one of 1..{NUM_CAMERAS}", frames, root))
            continue
        prefix = f"{'00-1' if pid == _JUNK else f'{pid:04d}'}C{camera}"
        stranger = next((name for name in frame_names if not name.startswith(prefix)), None)
        if stranger is not None:
            message = (
                f"{where}: tracklet of person {pid}, camera {camera} holds frame {stranger}; "
                f"its names should start with {prefix}: the tracklet mixes people or cameras"
            )
            on_fault(Fault(message, frames, root))
            continue
        tracklets[row] = Tracklet(frames, pid, camera - 1)
    return tracklets


MARS = DataSet(
    name="MARS",
    parse=parse_mars,
    official={"train": (625, 8_298), "query": (626, 1_980), "gallery": (621, 9_330)},
    official_test=(1_980, 11_310),
    distractor=_DISTRACTOR,
    junk="00-1",
)
