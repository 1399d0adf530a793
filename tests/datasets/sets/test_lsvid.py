"""LS-VID lists -> tracklets: both layouts, membership, cameras, chunks and the validation part."""

import os
from pathlib import Path

import numpy as np
import pytest

from datasets import load_splits
from datasets.sets.lsvid import parse_lsvid
from tests.datasets.sets.lsvid_files import (
    LISTS,
    LISTS_IN_INFO,
    brief,
    write_frames,
    write_list,
    write_query,
    write_set,
    write_val,
)
from tests.refusals import refused, with_faults


@pytest.fixture
def root(tmp_path) -> Path:
    return write_set(tmp_path / "LS-VID")


def test_hand_built_lists_give_the_expected_tracklets(root):
    before = {path: path.stat().st_mtime_ns for path in root.parent.rglob("*")}
    raw = parse_lsvid(root)
    assert {path: path.stat().st_mtime_ns for path in root.parent.rglob("*")} == before
    assert brief(raw.train) == [(70, 2, 2), (8, 14, 3), (70, 0, 1)]
    # Rows 6 and 1 of the list with its two junk lines, in the order of the query file.
    assert brief(raw.query) == [(9, 1, 2), (501, 0, 2)]
    assert brief(raw.gallery) == [(9, 9, 3), (501, 3, 1)]
    assert raw.cameras == tuple(str(camera) for camera in range(1, 16))
    assert (raw.root, raw.gallery_includes_query) == (str(root), True)
    assert (raw.val_query, raw.val_gallery) == ([], [])
    # Frames are full paths in the order of names, whatever the order in which they were written.
    start = root / "tracklet_train" / "my people" / "0008" / "0008_02"
    assert raw.train[1].frames == tuple(f"{start}{number:03d}_15_x.jpg" for number in range(3))


@pytest.mark.parametrize("from_parent", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("layout", [LISTS, LISTS_IN_INFO])
def test_both_layouts_line_ends_and_the_parent_give_the_same(tmp_path, layout, end, from_parent):
    expected = parse_lsvid(write_set(tmp_path / "one" / "LS-VID"))
    root = write_set(tmp_path / "two" / "LS-VID", layout, end)
    raw = parse_lsvid(root.parent if from_parent else root)
    for part in ("train", "query", "gallery"):
        moved = [(t.pid, t.camid, tuple(f.replace("/two/", "/one/") for f in t.frames)) for t in getattr(raw, part)]
        assert moved == [(t.pid, t.camid, t.frames) for t in getattr(expected, part)]


def test_a_folder_of_any_name_is_the_set_itself_although_its_info_folder_looks_like_one(tmp_path):
    root = write_set(tmp_path / "data", LISTS_IN_INFO)
    (root / "LS-VID" / "list_sequence").mkdir(parents=True)
    (root / "LS-VID" / LISTS[0]).touch()
    assert parse_lsvid(root).root == str(root)


def test_a_prefix_takes_all_images_that_start_with_it_and_nothing_else(root):
    folder = root / "tracklet_train" / "f"
    for name in ("0001_b_02.PNG", "0001_c_2.jpeg", "0001_a_002_x_y.JPG", "0001_d_2.bmp", "0001_e_3.txt", "0002_a_5.jpg",
                 ".0001_x_9.jpg", "notes"):  # fmt: skip
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "0001_f_7.jpg").mkdir()
    whole_folder = [f"{root}/tracklet_train/whole/7_{number}_004.jpg" for number in range(2)]
    for path in map(Path, whole_folder):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    lists = ["tracklet_train/f/0001 12", "tracklet_train/f/0002_ 13", "./tracklet_train/f/0002 14"]
    write_list(root / LISTS[0], [*lists, "tracklet_train/whole/ 7"])
    raw = parse_lsvid(root)
    names = [[os.path.basename(frame) for frame in t.frames] for t in raw.train]
    assert names[0] == ["0001_a_002_x_y.JPG", "0001_b_02.PNG", "0001_c_2.jpeg", "0001_d_2.bmp"]
    assert brief(raw.train) == [(12, 1, 4), (13, 4, 1), (14, 4, 1), (7, 3, 2)]
    assert raw.train[2].frames == raw.train[1].frames and raw.train[3].frames == tuple(whole_folder)


def test_a_byte_order_mark_zeros_before_a_camera_and_junk_without_images_are_accepted(root):
    for path in root.glob("tracklet_*/my people/-001/*"):
        path.unlink()
    write_frames(root, "tracklet_train/z/1_a", "003", 1)
    write_frames(root, "tracklet_train/z/1_b", 3, 1)
    (root / LISTS[0]).write_bytes(b"\xef\xbb\xbf" + (root / LISTS[0]).read_bytes() + b"tracklet_train/z/1_ 1\n")
    assert brief(parse_lsvid(root).train)[2:] == [(70, 0, 1), (1, 2, 2)]


@pytest.mark.parametrize(("items", "lengths"), [("auto", [48, 95]), ("chunks 64", [64, 79]), ("tracklets", [143])])
def test_training_is_cut_into_items_that_hold_every_frame(root, items, lengths):
    paths = write_frames(root, "tracklet_train/long/0005_", 6, 143)
    write_list(root / LISTS[0], ["tracklet_train/long/0005_ 5"])
    assert brief(parse_lsvid(root).train) == [(5, 5, 143)]
    splits = load_splits("LS-VID", str(root), train_items=items)
    assert [len(t.frames) for t in splits.train] == lengths
    assert [frame for t in splits.train for frame in t.frames] == paths


@pytest.mark.parametrize(
    "rows", [[[6.0], [1.0]], [6, 1], np.array([[6, 1]], np.uint16), np.array([[6, 1]], np.int64), [[6.0, 1.0]]]
)
def test_the_query_may_be_stored_as_row_column_or_vector_of_any_number_type(root, rows):
    write_query(root / LISTS[2], rows)
    assert brief(parse_lsvid(root).query) == [(9, 1, 2), (501, 0, 2)]


def test_the_first_tracklet_of_a_person_and_camera_is_a_validation_query(root):
    write_val(root)
    raw = parse_lsvid(root)
    assert brief(raw.val_query) == [(300, 0, 1), (300, 1, 1), (301, 6, 1)]
    assert brief(raw.val_gallery) == [(300, 0, 2)]


@pytest.mark.parametrize(("layout", "info"), [(LISTS, "val/data"), (LISTS_IN_INFO, "info/data")])
def test_the_validation_queries_of_the_file_win(tmp_path, layout, info):
    root = write_set(tmp_path / "LS-VID", layout)
    write_val(root, layout)
    write_query(root / info / "info_val.mat", [[2.0, 4.0]])
    raw = parse_lsvid(root)
    assert brief(raw.val_query) == [(300, 0, 2), (301, 6, 1)]
    assert brief(raw.val_gallery) == [(300, 0, 1), (300, 1, 1)]
    write_query(root / info / "info_val.mat", [[5.0]])
    refused("info_val.mat: query 5 is not a row of the 4", parse_lsvid, root)


def test_an_empty_validation_list_is_no_part_and_one_without_images_does_not_block(root):
    write_list(root / "list_sequence" / "list_seq_val.txt", [])
    assert parse_lsvid(root).val_query == []
    outside = f"{root}/tracklet_train/my people/0008/"
    write_list(root / "list_sequence" / "list_seq_val.txt", ["tracklet_val/a 1", f"{outside} 2"])
    assert parse_lsvid(root).val_query == []
    faults, _ = with_faults(parse_lsvid, root)
    assert [(fault.blocks, fault.split) for fault in faults] == [(False, "val")]
    assert "list_seq_val.txt: none of its 2 tracklets" in faults[0].message


def test_a_fault_in_the_validation_list_is_of_that_split(root):
    path = write_val(root)
    path.write_text(path.read_text() + "tracklet_val/none 1\n")
    faults, raw = with_faults(parse_lsvid, root)
    assert [fault.split for fault in faults] == ["val"] and "list_seq_val.txt line 5: no image" in faults[0].message
    assert len(raw.val_query) == 3


def test_folders_are_listed_once_and_not_once_per_line(root, monkeypatch):
    rows = [(f"tracklet_train/all/{number:04d}_", number) for number in range(300)]
    for start, _ in rows:
        write_frames(root, start, 2, 2)
    write_list(root / LISTS[0], [f"{start} {number}" for start, number in rows])
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(str(folder)) or scandir(folder))
    assert len(parse_lsvid(root).train) == 300
    assert listed.count(str(root / "tracklet_train" / "all")) == 1
