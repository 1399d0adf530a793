"""MARS (Zheng et al., ECCV 2016): official track lists -> tracklets."""

import os
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from datasets.tracklet import ReIDSplits, Tracklet, relabel
from utils.errors import InputError, MissingFileError

NUM_CAMERAS = 6
_JUNK = -1
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


def parse_mars(root: str | Path) -> ReIDSplits:
    """Read the MARS lists into 8,298 training, 1,980 query and 9,330 other gallery tracklets (official files).

    `root` is the folder that holds info/, bbox_train/ and bbox_test/, or its parent. Junk (pid -1) is dropped, pid 0
    stays in the gallery as distractors. Nothing is written. Raises MissingFileError (a FileNotFoundError) naming the
    first missing file, InputError (a ValueError) naming the list and row that is wrong.
    """
    root = find_root(Path(root))
    info = root / "info"
    train_info = _track_info(info / "tracks_train_info.mat", "track_train_info")
    test_info = _track_info(info / "tracks_test_info.mat", "track_test_info")
    query_rows = _query_rows(info / "query_IDX.mat", test_info)
    train_names = _frame_names(info / "train_name.txt")
    test_names = _frame_names(info / "test_name.txt")

    train = _tracklets(train_info, train_names, root / "bbox_train", info / "tracks_train_info.mat")
    test = _tracklets(test_info, test_names, root / "bbox_test", info / "tracks_test_info.mat")
    train = relabel([t for t in train if t.pid != _JUNK])
    if not train:
        raise InputError(f"{info / 'tracks_train_info.mat'} names no training person")
    query = [test[row] for row in query_rows]
    in_query = set(query_rows)
    gallery = [t for row, t in enumerate(test) if row not in in_query and t.pid != _JUNK]
    return ReIDSplits(
        train=tuple(train),
        query=tuple(query),
        gallery=tuple(gallery),
        num_classes=len({t.pid for t in train}),
        num_cameras=NUM_CAMERAS,
        gallery_includes_query=True,
    )


def find_root(root: Path) -> Path:
    """`root` itself or the one folder in it that is MARS; raises MissingFileError naming what was looked for."""
    if not root.is_dir():
        raise MissingFileError(f"DATASETS.ROOT_DIR {root} is not a folder; set it to the folder of MARS. {_HOW_TO_GET}")
    try:
        candidates = [root, *sorted(root.iterdir())]
    except OSError as error:
        raise InputError(f"DATASETS.ROOT_DIR {root} cannot be read ({error.strerror})") from None
    # os.path.exists, unlike Path.exists, passes over a sibling such as lost+found that may not be entered.
    found = [path for path in candidates if any(os.path.exists(path / name) for name in _LISTS)]
    named = [path for path in found if path.name.lower() == "mars"]
    best = root if root in found or not found else (named or found)[0]
    if len(found) > 1 and best is not root and not named:
        raise InputError(f"DATASETS.ROOT_DIR {root} holds several sets: {', '.join(p.name for p in found)}; name one")
    for name in _LISTS:
        if not os.path.exists(best / name):
            looked = ", ".join(_LISTS)
            raise MissingFileError(f"{best / name} is missing (looked in {root} for {looked}). {_HOW_TO_GET}")
    return best


def _mat_variable(path: Path, variable: str) -> np.ndarray:
    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises many kinds for a file that is not MATLAB 5
        raise InputError(f"{path} cannot be read as a MATLAB 5 file ({error})") from None
    if variable not in content:
        found = ", ".join(name for name in content if not name.startswith("__"))
        raise InputError(f"{path} holds no variable {variable} (found: {found or 'none'})")
    return content[variable]


def _track_info(path: Path, variable: str) -> np.ndarray:
    """(n, 4) int64: first row, last row (1-based, inclusive), person, camera (1-based)."""
    info = _mat_variable(path, variable)
    if info.ndim != 2 or info.shape[1] != 4 or not len(info):
        raise InputError(f"{path}: {variable} needs 4 columns (first, last, person, camera), has shape {info.shape}")
    return _whole_numbers(info, path, variable)


def _whole_numbers(values: np.ndarray, path: Path, variable: str) -> np.ndarray:
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all() or (values != np.floor(values)).any():
        raise InputError(f"{path}: {variable} must hold whole numbers, holds {values.dtype}")
    return values.astype(np.int64)


def _query_rows(path: Path, test_info: np.ndarray) -> list[int]:
    """0-based rows of the test list."""
    rows = _whole_numbers(_mat_variable(path, "query_IDX"), path, "query_IDX").ravel() - 1
    if not len(rows):
        raise InputError(f"{path}: query_IDX names no query")
    wrong = rows[(rows < 0) | (rows >= len(test_info))]
    if len(wrong):
        raise InputError(f"{path}: query {wrong[0] + 1} is not a row of the {len(test_info)} test tracklets")
    junk = rows[test_info[rows, 2] == _JUNK]
    if len(junk):
        raise InputError(f"{path}: query {junk[0] + 1} is a junk tracklet (person {_JUNK})")
    if len(set(rows.tolist())) != len(rows):
        raise InputError(f"{path}: a test tracklet is named twice")
    return rows.tolist()


def _frame_names(path: Path) -> list[str]:
    # The official lists end their lines with CRLF.
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a list of frame names ({error})") from None


def _tracklets(info: np.ndarray, names: list[str], folder: Path, source: Path) -> list[Tracklet]:
    """One tracklet per row of `info`; frame names must agree with the row's person and camera."""
    base = str(folder) + os.sep
    tracklets = []
    for row, (first, last, pid, camera) in enumerate(info.tolist(), start=1):
        if not 1 <= first <= last <= len(names):
            raise InputError(f"{source} row {row}: frames {first}..{last} do not lie in a list of {len(names)} names")
        if not 1 <= camera <= NUM_CAMERAS:
            raise InputError(f"{source} row {row}: camera {camera} is not one of 1..{NUM_CAMERAS}")
        frame_names = names[first - 1 : last]
        person = "00-1" if pid == _JUNK else f"{pid:04d}"
        prefix = f"{person}C{camera}"
        for name in frame_names:
            if not name.startswith(prefix):
                raise InputError(
                    f"{source} row {row}: tracklet of person {pid}, camera {camera} holds frame {name}; "
                    f"its names should start with {prefix}: the tracklet mixes people or cameras"
                )
        tracklets.append(Tracklet(tuple(f"{base}{person}{os.sep}{name}" for name in frame_names), pid, camera - 1))
    return tracklets
