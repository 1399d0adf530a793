"""MARS lists -> tracklets: membership, labels, cameras, order, and one clear error per fault."""

import time
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from datasets import check_frames_present, load_splits
from tests.conftest import SHARED
from tests.refusals import refused
from utils.errors import MissingFileError

LISTS = ("train_name.txt", "test_name.txt", "tracks_train_info.mat", "tracks_test_info.mat", "query_IDX.mat")
# person, camera (1-based), frames; ids out of order, junk (-1) and a distractor (0) between the others
TRAIN = ((30, 2, 2), (-1, 1, 1), (7, 1, 3), (30, 6, 1), (12, 4, 2))
TEST = ((5, 1, 2), (0, 3, 1), (-1, 2, 2), (5, 2, 1), (9, 6, 3), (9, 1, 1))
QUERY = (4, 0)  # 0-based rows of TEST, not in order


def frame_names(rows) -> list[str]:
    return [
        f"{'00-1' if pid == -1 else f'{pid:04d}'}C{camera}T{row:04d}F{frame:03d}.jpg"
        for row, (pid, camera, length) in enumerate(rows, start=1)
        for frame in range(1, length + 1)
    ]


def track_info(rows) -> np.ndarray:
    ends = np.cumsum([length for *_, length in rows])
    return np.array([(end - n + 1, end, pid, camera) for end, (pid, camera, n) in zip(ends, rows)], dtype=np.int32)


def write_names(path: Path, names) -> None:
    path.write_bytes("".join(f"{name}\r\n" for name in names).encode())


@pytest.fixture
def root(tmp_path) -> Path:
    """Eleven tracklets in MARS layout; the frames themselves are not needed for parsing."""
    info = tmp_path / "MARS" / "info"
    info.mkdir(parents=True)
    for split, rows in (("train", TRAIN), ("test", TEST)):
        write_names(info / f"{split}_name.txt", frame_names(rows))
    savemat(info / "tracks_train_info.mat", {"track_train_info": track_info(TRAIN)})
    savemat(info / "tracks_test_info.mat", {"track_test_info": track_info(TEST)})
    savemat(info / "query_IDX.mat", {"query_IDX": np.array([QUERY], dtype=np.uint16) + 1})
    return info.parent


def brief(tracklets) -> list[tuple[int, int, int]]:
    return [(t.pid, t.camid, len(t.frames)) for t in tracklets]


def test_hand_built_lists_give_the_expected_tracklets(root):
    splits = load_splits("MARS", str(root))
    # Labels follow the sorted ids 7 < 12 < 30; cameras count from 0; junk is dropped.
    assert brief(splits.train) == [(2, 1, 2), (0, 0, 3), (2, 5, 1), (1, 3, 2)]
    assert brief(splits.query) == [(9, 5, 3), (5, 0, 2)]
    assert brief(splits.gallery) == [(0, 2, 1), (5, 1, 1), (9, 0, 1)]
    assert (splits.num_classes, splits.num_cameras, splits.gallery_includes_query) == (3, 6, True)
    folder = root / "bbox_train" / "0007"
    assert splits.train[1].frames == tuple(str(folder / f"0007C1T0003F00{number}.jpg") for number in (1, 2, 3))
    assert splits.gallery[0].frames == (str(root / "bbox_test" / "0000" / "0000C3T0002F001.jpg"),)
    for name, folder in (("MARS", root.parent), ("mars", root), ("M-A-R-S", root.parent)):
        assert load_splits(name, str(folder)) == splits


def test_lists_without_carriage_returns_or_with_a_byte_order_mark_are_read_the_same(root):
    before = load_splits("MARS", str(root))
    for path in (root / "info").glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n"))
    assert load_splits("MARS", str(root)) == before


def test_the_synthetic_set_is_complete_and_left_untouched(tiny_mars):
    def listing():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tiny_mars.rglob("*")}

    before = listing()
    splits = load_splits("MARS", str(tiny_mars))
    check_frames_present(splits)
    assert listing() == before
    assert (splits.num_classes, {t.pid for t in splits.train}) == (6, set(range(6)))
    assert {t.camid for t in splits.train} == {0, 1, 2}
    every = [t for part in (splits.train, splits.query, splits.gallery) for t in part]
    assert all(Path(frame).is_file() for t in every for frame in t.frames)
    assert all(list(t.frames) == sorted(t.frames) for t in every)
    assert not set(splits.query) & set(splits.gallery)
    assert -1 not in {t.pid for t in every}


@pytest.mark.parametrize("from_parent", [False, True])
@pytest.mark.parametrize("name", LISTS)
def test_a_missing_list_is_named(root, name, from_parent):
    (root / "info" / name).unlink()
    with pytest.raises(MissingFileError, match=f"^{root / 'info' / name} is missing"):
        load_splits("MARS", str(root.parent if from_parent else root))


def test_a_missing_root_an_unknown_set_and_missing_images_are_named(root):
    with pytest.raises(MissingFileError, match="DATASETS.ROOT_DIR .*nowhere is not a folder"):
        load_splits("MARS", str(root / "nowhere"))
    refused("'PRID' is not known; it must be one of .*MARS", load_splits, "PRID", str(root))
    refused("no option 'split'", load_splits, "MARS", str(root), split=0)
    with pytest.raises(MissingFileError, match="0030C2T0001F001.jpg is missing"):
        check_frames_present(load_splits("MARS", str(root)))


def rows_changed(rows, row, column, value):
    info = track_info(rows)
    info[row, column] = value
    return info


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("tracks_train_info.mat", {"xmars_tracks_train_info": track_info(TRAIN)}, "no variable track_train_info"),
        ("tracks_test_info.mat", {"track_test_info": track_info(TEST)[:, :3]}, "needs 4 columns"),
        ("tracks_test_info.mat", {"track_test_info": np.zeros((0, 4), np.int32)}, "needs 4 columns"),
        ("tracks_train_info.mat", {"track_train_info": rows_changed(TRAIN, 4, 1, 10)}, "row 5: frames 8..10"),
        ("tracks_train_info.mat", {"track_train_info": rows_changed(TRAIN, 0, 0, 0)}, "row 1: frames 0..2"),
        ("tracks_train_info.mat", {"track_train_info": rows_changed(TRAIN, 2, 0, 7)}, "row 3: frames 7..6"),
        ("tracks_train_info.mat", {"track_train_info": rows_changed(TRAIN, 2, 1, 7)}, "row 3: .*0030C6T0004F001.jpg"),
        ("tracks_test_info.mat", {"track_test_info": rows_changed(TEST, 4, 1, 10)}, "row 5: .*0009C1T0006F001.jpg"),
        ("tracks_test_info.mat", {"track_test_info": rows_changed(TEST, 3, 2, 9)}, "row 4: .*0005C2T0004F001.jpg"),
        ("tracks_test_info.mat", {"track_test_info": rows_changed(TEST, 1, 3, 7)}, "row 2: camera 7"),
        ("query_IDX.mat", {"query_IDX": np.array([[1, 7]])}, "query 7 is not a row of the 6"),
        ("query_IDX.mat", {"query_IDX": np.array([[0, 1]])}, "query 0 is not a row of the 6"),
        ("query_IDX.mat", {"query_IDX": np.array([[4, 4]])}, "named twice"),
        ("query_IDX.mat", {"query_IDX": np.array([[1, 3]])}, "query 3 .*junk"),
        ("query_IDX.mat", {"query_IDX": np.array([[2]])}, "query 2 is a distractor .person 0."),
        ("query_IDX.mat", {"query_IDX": np.array([[1e19]])}, "query_IDX holds 1e[+]19, more than any list has rows"),
        ("query_IDX.mat", {"query_IDX": np.array([[1e300]])}, "query_IDX holds 1e[+]300, more than any list has rows"),
        ("query_IDX.mat", {"query_IDX": np.zeros((1, 0))}, "quer"),
        ("query_IDX.mat", {"query_IDX": "text"}, "numbers"),
        ("tracks_test_info.mat", {"track_test_info": np.array([["a", "b", "c", "d"]])}, "numbers"),
    ],
)
def test_a_fault_in_a_list_is_named_with_its_file(root, name, content, fault):
    savemat(root / "info" / name, content)
    refused(f"{name}.*{fault}", load_splits, "MARS", str(root))


def test_a_frame_that_names_a_folder_is_refused_although_its_name_begins_well(root):
    path = root / "info" / "train_name.txt"
    first = path.read_text().split()[0]
    path.write_text(path.read_text().replace(first, f"{first[:6]}/../../../x.jpg", 1))
    refused(f"row 1: frame {first[:6]}/../../../x.jpg names a folder", load_splits, "MARS", str(root))


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_garbage_or_cut_short_is_named(root, name):
    path = root / "info" / name
    whole = path.read_bytes()
    for content in (b"\xff\xfe\x00garbage" * 20, whole[: len(whole) // 2]):
        path.write_bytes(content)
        refused(f"{name.split('_name')[0]}|{name}", load_splits, "MARS", str(root))


def test_the_official_lists_give_the_official_counts_in_seconds(tmp_path):
    official = SHARED / "mars-info"
    if not official.is_dir():
        pytest.skip("the official lists are not here")
    (tmp_path / "info").mkdir()
    for split, count in (("train", 509_914), ("test", 681_089)):
        info = loadmat(official / f"tracks_{split}_info.mat")[f"track_{split}_info"].astype(int)
        names = frame_names([(pid, camera, last - first + 1) for first, last, pid, camera in info.tolist()])
        assert len(names) == count
        write_names(tmp_path / "info" / f"{split}_name.txt", names)
    for path in official.glob("*.mat"):
        (tmp_path / "info" / path.name).write_bytes(path.read_bytes())
    start = time.process_time()
    splits = load_splits("MARS", str(tmp_path))
    assert time.process_time() - start < 5
    assert [len(part) for part in (splits.train, splits.query, splits.gallery)] == [8298, 1980, 9330]
    assert (splits.num_classes, splits.num_cameras) == (625, 6)
    assert {t.pid for t in splits.train} == set(range(625))
    assert {t.camid for t in splits.train} == {t.camid for t in splits.query} == set(range(6))
    assert sum(len(t.frames) for t in splits.train) == 509_914
    assert sum(t.pid == 0 for t in splits.gallery) == 3_248
    assert len({t.pid for t in splits.query}) == 626

    def unmatched(gallery):
        cameras = {}
        for t in gallery:
            cameras.setdefault(t.pid, set()).add(t.camid)
        return sum(not cameras.get(t.pid, set()) - {t.camid} for t in splits.query)

    assert (unmatched(splits.query + splits.gallery), unmatched(splits.gallery)) == (0, 140)


def test_queries_alone_are_a_gallery_where_the_protocol_ranks_them(root):
    write_names(root / "info" / "test_name.txt", frame_names(TEST[:1]))
    savemat(root / "info" / "tracks_test_info.mat", {"track_test_info": track_info(TEST[:1])})
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([[1]])})
    splits = load_splits("MARS", str(root))
    assert len(splits.query) == 1 and splits.gallery == ()
