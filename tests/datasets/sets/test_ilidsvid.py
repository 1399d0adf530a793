"""iLIDS-VID -> tracklets: ten splits and both halves, cameras, frames, and one error per fault."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from datasets.sets.ilidsvid import parse_ilidsvid
from tests.datasets.sets.ilidsvid_files import PERSONS, SPLIT_FILE, SPLITS, pids, write_set, write_splits
from tests.refusals import refused, with_faults
from utils.errors import InputError


@pytest.fixture
def root(tmp_path) -> Path:
    return write_set(tmp_path / "set")


@pytest.mark.parametrize("split", range(10))
def test_the_last_half_of_a_row_is_training_or_the_first_as_in_the_release(root, split):
    """The other half is the test: queries of camera 1, a gallery of camera 2, one true match each."""
    last, first = (parse_ilidsvid(root, split=split, train_half=half) for half in ("last", "first"))
    row = [PERSONS[number - 1] for number in SPLITS[split].tolist()]
    for raw, trained, tested in ((last, row[3:], row[:3]), (first, row[:3], row[3:])):
        assert [(t.pid, t.camid) for t in raw.train] == [(pid, camid) for pid in sorted(trained) for camid in (0, 1)]
        assert [(t.pid, t.camid) for t in raw.query] == [(pid, 0) for pid in sorted(tested)]
        assert [(t.pid, t.camid) for t in raw.gallery] == [(pid, 1) for pid in sorted(tested)]
        assert (raw.cameras, raw.gallery_includes_query) == (("1", "2"), False)
    assert parse_ilidsvid(root, split=str(split)) == parse_ilidsvid(root, split=np.int64(split)) == last
    assert split != 0 or parse_ilidsvid(root) == last


def test_tracklets_are_whole_with_frames_in_the_order_of_names(root):
    raw = parse_ilidsvid(root)
    folder = root / "i-LIDS-VID" / "sequences" / "cam2" / "person002"
    expected = tuple(str(folder / f"cam2_person002_{number:05d}.png") for number in (9998, 9999, 10000))
    assert raw.gallery[1].frames == expected
    assert raw.root == str(root / "i-LIDS-VID") and all(t.frames[0].startswith(raw.root + os.sep) for t in raw.train)


@pytest.mark.parametrize("split", [-1, 10, "10", "all", "", "03", "01", 1.0, True, None, " 3", "٣"])
def test_another_split_or_half_is_refused(root, split):
    refused("DATASETS.SPLIT .* must be one of 0 to 9", parse_ilidsvid, root, split=split)
    refused("DATASETS.TRAIN_HALF .* must be one of last, first", parse_ilidsvid, root, train_half=split)


def test_a_person_of_one_camera_is_named_and_is_not_numbered(root):
    sequences = root / "i-LIDS-VID" / "sequences"
    (sequences / "cam1" / "person003").mkdir()
    (sequences / "cam1" / "person003" / "f.png").touch()
    missing = sequences / "cam2" / "person003"
    refused(f"^{missing} is missing: every person is seen by both cameras$", parse_ilidsvid, root)
    faults, raw = with_faults(parse_ilidsvid, root)
    frames = (str(sequences / "cam1" / "person003" / "f.png"),)
    assert [(fault.frames, fault.root, fault.blocks) for fault in faults] == [(frames, raw.root, True)]
    # The six others keep the numbers 1 to 6.
    assert pids(raw.query) == [1, 2, 5] and pids(raw.train) == [77, 77, 81, 81, 300, 300]


@pytest.mark.parametrize(("gone", "expected"), [
    ({"cam2": [5]}, "has 5 seen by both cameras (person005 is missing in cam2)"),
    ({"cam2": [1, 5, 300], "cam1": [2]}, "has 2 seen by both cameras (person001 is missing in cam2, person002 is "
     "missing in cam1, person005 is missing in cam2 and 1 more)"),
])  # fmt: skip
def test_persons_of_one_camera_are_named_where_the_splits_count_them(root, gone, expected):
    for camera, numbers in gone.items():
        for number in numbers:
            shutil.rmtree(root / "i-LIDS-VID" / "sequences" / camera / f"person{number:03d}")
    with pytest.raises(InputError) as caught:
        with_faults(parse_ilidsvid, root)
    assert str(caught.value).endswith(expected)


def test_an_empty_person_folder_is_named_and_keeps_its_number(root):
    folder = root / "i-LIDS-VID" / "sequences" / "cam1" / "person002"
    for path in folder.iterdir():
        path.unlink()
    refused(f"^{folder} holds no image$", parse_ilidsvid, root)
    faults, raw = with_faults(parse_ilidsvid, root)
    assert len(faults) == 1 and all("cam2/person002" in frame for frame in faults[0].frames)
    # Person 2 is left out of both cameras; the persons after it are still numbers 3 to 6.
    assert pids(raw.query) == pids(raw.gallery) == [1, 5] and pids(raw.train) == [77, 77, 81, 81, 300, 300]


def test_two_folders_of_one_number_are_refused(root):
    (root / "i-LIDS-VID" / "sequences" / "cam1" / "person01").mkdir()
    refused("person01 is a second folder of person 1", parse_ilidsvid, root)


def changed(row: int, column: int, value: float) -> np.ndarray:
    splits = SPLITS.astype(np.float64)
    splits[row, column] = value
    return splits


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (SPLITS[:9], r"needs 10 rows, one per split, has shape \(9, 6\)"),
        (SPLITS.T, r"needs 10 rows, .*\(6, 10\)"),
        (np.zeros((10, 0)), r"needs 10 rows, .*\(10, 0\)"),
        (np.zeros((10, 2, 3)), r"needs 10 rows, .*\(10, 2, 3\)"),
        ("a text", "must hold whole numbers, holds a text"),
        ({"field": 1}, "must hold whole numbers, holds a struct"),
        (np.array([["a"] * 6] * 10), "must hold whole numbers"),
        (np.full((10, 6), 1j), "must hold whole numbers, holds complex"),
        (np.full((10, 6), {}), "must hold whole numbers, holds a cell array"),
        (SPLITS - 1, r"row 1 is not a permutation of 1\.\.6"),
        (changed(9, 5, 2), "row 10 is not a permutation"),
        (changed(4, 0, 7), "row 5 is not a permutation"),
        (changed(4, 0, 1.5), "row 5 is not a permutation"),
        (changed(7, 3, np.nan), "row 8 is not a permutation"),
        (changed(7, 3, np.inf), "row 8 is not a permutation"),
        (np.array([np.arange(1, 9)] * 10), "splits 8 persons, but .*sequences has 6 seen by both"),
        (np.array([np.arange(1, 5)] * 10), "splits 4 persons, but .*sequences has 6"),
        (np.array([np.arange(1, 6)] * 10), "splits 5 persons, which has no halves"),
    ],
)
def test_a_fault_in_any_row_of_the_splits_is_named_whatever_the_split(root, splits, expected):
    write_splits(root / SPLIT_FILE, splits)
    refused(f"^{root / SPLIT_FILE}: ls_set .*(?:{expected})", parse_ilidsvid, root, split=6)


def test_a_split_file_that_cannot_be_read_is_named(root):
    path = root / SPLIT_FILE
    write_splits(path, name="split_set")
    refused(f"{path} holds no variable ls_set .found: split_set", parse_ilidsvid, root)
    for content in (b"", b"rubbish" * 100, b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"\xff" * 100):
        path.write_bytes(content)
        refused(f"^{path} [^\n]*$", parse_ilidsvid, root)
    path.unlink()
    path.mkdir()
    refused(f"{path} cannot be read .Is a directory.", parse_ilidsvid, root)


@pytest.mark.parametrize("header", [0, 512])
def test_splits_of_matlab_73_are_refused(root, header):
    path = root / SPLIT_FILE
    with h5py.File(path, "w", userblock_size=header) as file:
        file["ls_set"] = SPLITS
    if header:
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    refused(f"{path} must be a MATLAB 5 file, but is one of MATLAB 7.3", parse_ilidsvid, root)
