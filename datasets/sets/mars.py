"""MARS (Zheng et al., ECCV 2016): official track lists -> tracklets."""

import os
from pathlib import Path

import numpy as np

from datasets.sets.find_root import find_root, read_lines
from datasets.sets.matlab import check_whole_numbers, query_and_gallery, query_rows
from datasets.sets.matlab5 import read_matlab5
from datasets.tracklet import DataSet, Fault, OnFault, RawSplits, Tracklet, raise_or_warn
from utils.errors import InputError

NUM_CAMERAS = 6
_JUNK, _DISTRACTOR = -1, 0
_NOBODY = {_JUNK: "a junk tracklet", _DISTRACTOR: "a distractor"}
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
    train, _ = _read_part(root, "train", on_fault)
    test, persons = _read_part(root, "test", on_fault)
    queries = root / "info" / "query_IDX.mat"
    rows = query_rows(read_matlab5(queries, "query_IDX"), queries, "query_IDX", persons, _NOBODY)
    query, gallery = query_and_gallery(test, rows)
    return RawSplits(
        root=str(root),
        train=list(train.values()),
        query=query,
        gallery=gallery,
        cameras=tuple(str(camera) for camera in range(1, NUM_CAMERAS + 1)),
        gallery_includes_query=True,
    )


def _read_part(root: Path, part: str, on_fault: OnFault) -> tuple[dict[int, Tracklet], list[int]]:
    """(0-based row of the table -> tracklet, without junk; person of each row) of the 'train' or 'test' part."""
    table, listed = root / "info" / f"tracks_{part}_info.mat", root / "info" / f"{part}_name.txt"
    info = _track_info(table, f"track_{part}_info")
    names = " ".join(read_lines(listed, "frame names")).split()
    covered = int((info[:, 1] - info[:, 0] + 1).sum())
    if covered != len(names):  # in the official lists they agree
        message = f"{table} has tracklets of {covered:,} frames together, {listed} names {len(names):,}"
        on_fault(Fault(message, blocks=False))
    base = str(root / f"bbox_{part}") + os.sep
    tracklets = {}
    for row, (first, last, pid, camera) in enumerate(info.tolist()):
        in_list = 1 <= first <= last <= len(names)
        frame_names = names[first - 1 : last] if in_list else []
        # The folder of a frame is the first four characters of its name: "00-1" for junk.
        frames = tuple(f"{base}{name[:4]}{os.sep}{name}" for name in frame_names)
        prefix = f"{'00-1' if pid == _JUNK else f'{pid:04d}'}C{camera}"
        in_folder = next((name for name in frame_names if "/" in name), None)
        wrong_name = next((name for name in frame_names if not name.startswith(prefix)), None)
        if not in_list:
            problem = f"frames {first}..{last} do not lie in a list of {len(names)} names"
        elif not 1 <= camera <= NUM_CAMERAS:
            problem = f"camera {camera} is not one of 1..{NUM_CAMERAS}"
        elif in_folder is not None:
            problem = f"frame {in_folder} names a folder; expected is a name like 0001C1T0001F001.jpg"
        elif wrong_name is not None:
            problem = (
                f"tracklet of person {pid}, camera {camera} holds frame {wrong_name}; "
                f"its names should start with {prefix}: the tracklet mixes people or cameras"
            )
        else:
            if pid != _JUNK:
                tracklets[row] = Tracklet(frames, pid, camera - 1)
            continue
        on_fault(Fault(f"{table} row {row + 1}: {problem}", frames, str(root)))
    return tracklets, info[:, 2].tolist()


def _track_info(path: Path, variable: str) -> np.ndarray:
    """(n, 4) int64: first row, last row (1-based, inclusive), person, camera (1-based)."""
    info = read_matlab5(path, variable)
    if info.ndim != 2 or info.shape[1] != 4 or not len(info):
        raise InputError(f"{path}: {variable} needs 4 columns (first, last, person, camera), has shape {info.shape}")
    check_whole_numbers(info, path, variable)
    return info.astype(np.int64)


MARS = DataSet(
    name="MARS",
    parse=parse_mars,
    official={"train": (625, 8_298), "query": (626, 1_980), "gallery": (621, 9_330)},
    official_test=(1_980, 11_310),
    paper={"mAP": 89.4, "rank1": 93.0, "rank5": 97.9},
    distractor=_DISTRACTOR,
    junk="00-1",
)
