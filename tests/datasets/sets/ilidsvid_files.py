"""A hand-built iLIDS-VID: six persons, ten splits, empty images."""

from pathlib import Path

import numpy as np
from scipy.io import savemat

from datasets.tracklet import RawSplits, Tracklet

# Six persons with gaps in their numbers: number 1 of a split is person 1, number 6 is person 300.
PERSONS = (1, 2, 5, 77, 81, 300)
# Row r of the splits, by hand: first half 1 2 3 / last half 4 5 6, and so on.
SPLITS = np.array(
    [
        [1, 2, 3, 4, 5, 6],
        [6, 5, 4, 3, 2, 1],
        [2, 4, 6, 1, 3, 5],
        [5, 3, 1, 6, 4, 2],
        [1, 4, 2, 5, 3, 6],
        [6, 3, 5, 2, 4, 1],
        [3, 1, 2, 6, 5, 4],
        [4, 6, 5, 1, 2, 3],
        [1, 6, 2, 5, 3, 4],
        [4, 3, 5, 2, 6, 1],
    ],
    dtype=np.uint16,
)
MAT = "train_test_splits_ilidsvid.mat"
SPLIT_FILE = f"train-test people splits/{MAT}"


def write_persons(home: Path, persons=PERSONS) -> None:
    """Person p has 2 frames in cam1, 3 in cam2, made in falling order and numbered on and on."""
    for camera, count in ((1, 2), (2, 3)):
        for person in reversed(persons):
            folder = home / "sequences" / f"cam{camera}" / f"person{person:03d}"
            folder.mkdir(parents=True)
            for number in reversed(range(count)):
                (folder / f"cam{camera}_person{person:03d}_{9998 + number:05d}.png").touch()


def write_splits(path: Path, splits=SPLITS, name: str = "ls_set") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {name: splits})


def write_set(folder: Path) -> Path:
    write_persons(folder / "i-LIDS-VID")
    write_splits(folder / SPLIT_FILE)
    return folder


def pids(tracklets: list[Tracklet]) -> list[int]:
    return [t.pid for t in tracklets]


def below(raw: RawSplits) -> list:
    """All tracklets with frames below the root, to compare sets in different places."""
    parts = (raw.train, raw.query, raw.gallery)
    cut = len(raw.root) + 1
    return [[(t.pid, t.camid, tuple(frame[cut:] for frame in t.frames)) for t in part] for part in parts]
