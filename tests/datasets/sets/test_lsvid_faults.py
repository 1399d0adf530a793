"""LS-VID: one clear error per fault of a list, a frame name or the query file."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from datasets.sets.lsvid import parse_lsvid
from tests.datasets.sets.lsvid_files import LISTS, LISTS_IN_INFO, brief, write_list, write_query, write_set
from tests.refusals import refused, with_faults
from utils.errors import InputError, MissingFileError


@pytest.fixture
def root(tmp_path) -> Path:
    return write_set(tmp_path / "LS-VID")


@pytest.mark.parametrize("from_parent", [False, True])
@pytest.mark.parametrize("layout", [LISTS, LISTS_IN_INFO])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_list_is_named_with_all_that_was_looked_for(tmp_path, layout, number, from_parent):
    root = write_set(tmp_path / "LS-VID", layout)
    (root / layout[number]).unlink()
    with pytest.raises(MissingFileError) as caught:
        parse_lsvid(root.parent if from_parent else root)
    message = str(caught.value)
    assert message.startswith(f"{root / layout[number]} is missing") and "authors (Li et al., ICCV 2019)" in message
    assert all(name in message for name in (*LISTS, *LISTS_IN_INFO)) and "\n" not in message


def test_a_missing_root_and_several_sets_are_named(tmp_path):
    with pytest.raises(MissingFileError, match="DATASETS.ROOT_DIR .*nowhere is not a folder; .*LS-VID"):
        parse_lsvid(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(MissingFileError, match="file is not a folder"):
        parse_lsvid(tmp_path / "file")
    with pytest.raises(MissingFileError, match=f"^{tmp_path}/list_sequence/list_seq_train.txt is missing"):
        parse_lsvid(tmp_path)
    for name in ("a", "b"):
        write_set(tmp_path / name)
    refused("several sets: a, b; name one", parse_lsvid, tmp_path)
    write_set(tmp_path / "lsvid")
    assert parse_lsvid(tmp_path).root == str(tmp_path / "lsvid")
    write_set(tmp_path / "LS-VID")
    refused("several sets: LS-VID, a, b, lsvid; name one", parse_lsvid, tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tracklet_train/x", "line 2: expected a path prefix, a space and a person .*, found 'tracklet_train/x'"),
        ("tracklet_train/x twelve", "line 2: expected"),
        ("tracklet_train/x 1.0", "line 2: expected"),
        ("tracklet_train/x -2", "line 2: expected"),
        ("tracklet_train/x " + "9" * 5000, "line 2: expected"),
        (" 12", "line 2: expected"),
        ("", "line 2: expected .* found ''"),
        ("tracklet_train/none/0001 12", "line 2: no image starts with 'tracklet_train/none/0001'"),
        ("tracklet_train/zero\0byte/0001 12", "line 2: .* is not a path below"),
        ("/etc/x 12", "line 2: '/etc/x' is not a path below the folder"),
        ("tracklet_train/../../x 12", "line 2: .* is not a path below"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_left_out(root, line, expected):
    lines = (root / LISTS[0]).read_text().splitlines()
    write_list(root / LISTS[0], [lines[0], line, *lines[2:]])
    with pytest.raises(InputError, match=f"list_seq_train.txt {expected}") as caught:
        parse_lsvid(root)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    faults, raw = with_faults(parse_lsvid, root)
    assert len(faults) == 1 and brief(raw.train) == [(70, 2, 2), (8, 14, 3), (70, 0, 1)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("1_1_3_x.jpg", "1_2_4_x.jpg"), "mixes cameras: '1_1_3_x.jpg', '1_2_4_x.jpg'"),
        (("1_1_16.jpg",), "'1_1_16.jpg': camera '16', its third field, is not one of 1..15"),
        (("1_1_0.jpg",), "camera '0'"),
        (("1_1_00_x.jpg",), "camera '00'"),
        (("1_1_c3_x.jpg",), "camera 'c3'"),
        (("1_1_-3_x.jpg",), "camera '-3'"),
        (("1_1_٣_x.jpg",), "camera '٣'"),
        (("1_1__x.jpg",), "camera ''"),
        (("1_1_115_x.jpg",), "camera '115'"),
        (("1_1.jpg",), "'1_1.jpg' needs three fields"),
        (("1_1_3_x.jpg", "1_2_no_x.jpg"), "camera 'no'"),
    ],
)
def test_a_frame_name_without_one_camera_is_a_fault_of_its_tracklet(root, names, expected):
    folder = root / "tracklet_test" / "odd"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    lines = (root / LISTS[1]).read_text().splitlines()
    write_list(root / LISTS[1], [*lines[:3], "tracklet_test/odd/1 44", *lines[3:]])
    write_query(root / LISTS[2], [[7.0, 1.0]])
    refused(f"list_seq_test.txt line 4: .*{expected}", parse_lsvid, root)
    faults, raw = with_faults(parse_lsvid, root)
    frames = tuple(str(folder / name) for name in names)
    assert [(fault.frames, fault.root, fault.split) for fault in faults] == [(frames, str(root), "gallery")]
    assert brief(raw.query) == [(9, 1, 2), (501, 0, 2)] and brief(raw.gallery) == [(9, 9, 3), (501, 3, 1)]


def test_a_query_whose_line_is_wrong_is_left_out_and_is_no_gallery(root):
    lines = (root / LISTS[1]).read_text().splitlines()
    write_list(root / LISTS[1], ["tracklet_test/none 501", *lines[1:]])
    faults, raw = with_faults(parse_lsvid, root)
    assert [fault.split for fault in faults] == ["query"]
    assert brief(raw.query) == [(9, 1, 2)] and brief(raw.gallery) == [(9, 9, 3), (501, 3, 1)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1.0, 7.0]], "query 7 is not a row of the 6"),
        ([[0.0, 1.0]], "query 0 is not a row of the 6"),
        ([[-1.0]], "query -1 is not a row"),
        ([[1e300]], r"query holds 1e\+300, more than"),
        ([[1.0, 3.0, 1.0]], "query 1 is named twice"),
        ([[1.0, 2.0]], "query 2 is a junk tracklet"),
        ([[1.0, 2.5]], "must hold whole numbers"),
        ([[1.0, np.nan]], "must hold whole numbers"),
        ([[1.0, np.inf]], "must hold whole numbers"),
        ([[1j]], "must hold whole numbers, holds complex128"),
        ([[True]], "must hold whole numbers, holds bool"),
        ([[b"a text"]], "must hold whole numbers"),
        (np.zeros((1, 0)), "names no tracklet"),
        (np.zeros(0), "names no tracklet"),
        ([[1.0, 3.0], [4.0, 6.0]], r"must be one row of numbers, has shape \(2, 2\)"),
        (1.0, r"has shape \(\)"),
    ],
)
def test_a_fault_in_the_query_file_is_named(root, rows, expected):
    write_query(root / LISTS[2], rows)
    refused(f"info_test.mat: query.*{expected}|info_test.mat: {expected}", parse_lsvid, root)


def test_a_query_file_of_another_kind_is_refused(root):
    path = root / LISTS[2]
    # What MATLAB writes for an empty array and for a text is not taken for rows.
    write_query(path, np.array([1, 3], np.uint64), MATLAB_empty=np.uint8(1))
    refused("query names no tracklet", parse_lsvid, root)
    write_query(path, np.array([[1, 3]], np.uint16), MATLAB_class=np.bytes_("char"))
    refused("holds a text", parse_lsvid, root)
    savemat(path, {"query": np.array([[1.0]])})
    refused(f"{path} must be a MATLAB 7.3 file .*MATLAB 5 file", parse_lsvid, root)
    for content in (b"", b"rubbish" * 100):
        path.write_bytes(content)
        refused(f"{path} must be .* not an HDF5 file", parse_lsvid, root)
    write_query(path, [[1.0]], name="Query")
    refused(f"{path} holds no dataset query .found: Query", parse_lsvid, root)
    path.unlink()
    path.mkdir()
    refused(f"{path} cannot be read", parse_lsvid, root)
    path.rmdir()
    with h5py.File(path, "w") as file:
        file.create_group("query")
    refused("query is a group", parse_lsvid, root)
    with h5py.File(path, "w") as file:
        file.create_dataset("query", data=h5py.Empty("f"))
    refused("names no tracklet", parse_lsvid, root)


def test_a_cut_query_file_is_refused(root):
    path = root / LISTS[2]
    whole = path.read_bytes()
    for kept in (520, 1000, len(whole) - 8):
        path.write_bytes(whole[:kept])
        refused(f"^{path} [^\n]*$", parse_lsvid, root)


@pytest.mark.parametrize("number", [0, 1])
def test_an_empty_list_one_that_is_no_text_and_a_folder_are_refused(root, number):
    (root / LISTS[number]).rename(root / "list")
    (root / LISTS[number]).mkdir()
    refused(f"{root / LISTS[number]} cannot be read", parse_lsvid, root)
    (root / LISTS[number]).rmdir()
    (root / LISTS[number]).write_bytes(b"\r\n\r\n")
    refused(f"{root / LISTS[number]} names no tracklet", parse_lsvid, root)
    (root / LISTS[number]).write_bytes("tracklet 1".encode("utf-16"))
    refused(f"{root / LISTS[number]} cannot be read as a list", parse_lsvid, root)


def test_a_list_in_which_no_line_is_right_leaves_nothing(root):
    write_list(root / LISTS[0], ["wrong", "worse"])
    faults, raw = with_faults(parse_lsvid, root)
    assert len(faults) == 2 and list(raw.train) == []
