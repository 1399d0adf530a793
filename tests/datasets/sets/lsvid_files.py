"""A hand-built LS-VID: lists, query file and empty images, in both layouts."""

from pathlib import Path

import h5py
import numpy as np

from datasets.tracklet import Tracklet

LISTS = ("list_sequence/list_seq_train.txt", "list_sequence/list_seq_test.txt", "test/data/info_test.mat")
LISTS_IN_INFO = ("info/list_sequence/list_seq_train.txt", "info/list_sequence/list_seq_test.txt",
                 "info/data/info_test.mat")  # fmt: skip
# person, camera, frames; ids out of order, junk (-1) between the others
TRAIN = ((70, 3, 2), (-1, 1, 1), (8, 15, 3), (70, 1, 1))
TEST = ((501, 1, 2), (-1, 2, 2), (9, 10, 3), (501, 4, 1), (-1, 5, 1), (9, 2, 2))
QUERY = (6, 1)  # rows of TEST from 1, counted over junk, not in order
VAL = ((300, 1, 1), (300, 1, 2), (300, 2, 1), (301, 7, 1))


def prefix(split: str, row: int, pid: int) -> str:
    return f"tracklet_{split}/my people/{pid:04d}/{pid:04d}_{row:02d}"


def write_frames(root: Path, start: str, camera: int | str, count: int) -> list[str]:
    """Empty images whose paths start with `start`, made in falling order."""
    paths = [root / f"{start}{number:03d}_{camera:0>2}_x.jpg" for number in range(count)]
    for path in reversed(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return [str(path) for path in paths]


def write_list(path: Path, lines, end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())


def write_query(path: Path, rows, name: str = "query", **attributes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        table = file.create_dataset(name, data=np.asarray(rows))
        table.attrs.update(attributes)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, by hand".ljust(128))


def write_split(root: Path, list_name: str, split: str, rows, end: str = "\n") -> None:
    for row, (pid, camera, count) in enumerate(rows):
        write_frames(root, prefix(split, row, pid), camera, count)
    lines = [f"{prefix(split, row, pid)} {pid}" for row, (pid, *_) in enumerate(rows)]
    write_list(root / list_name, lines, end)


def write_set(root: Path, layout=LISTS, end: str = "\n") -> Path:
    write_split(root, layout[0], "train", TRAIN, end)
    write_split(root, layout[1], "test", TEST, end)
    write_query(root / layout[2], np.array([QUERY], np.float64))
    return root


def write_val(root: Path, layout=LISTS) -> Path:
    list_name = layout[0].replace("train", "val")
    write_split(root, list_name, "val", VAL)
    return root / list_name


def brief(tracklets: list[Tracklet]) -> list[tuple[int, int, int]]:
    return [(t.pid, t.camid, len(t.frames)) for t in tracklets]
