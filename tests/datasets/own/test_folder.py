"""split/person/camera_tracklet folders -> tracklets: ids, cameras, order, and one clear line per fault."""

import os
from pathlib import Path

import pytest

from datasets.own.folder import parse_folder
from datasets.own.names import natural_key
from datasets.tracklet import RawSplits
from utils.errors import InputError, MissingFileError

TRACKLETS = {
    "train": {"Zoë": ["c10_1", "c2_1"], "anna b": ["c2_0001"]},
    "query": {"carl": ["c1_1"]},
    "gallery": {"carl": ["c2_1"], "anna b": ["c10_7"]},
}


def write_frames(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")  # parsing does not open images


def write_set(root: Path, tracklets: dict) -> Path:
    for split, persons in tracklets.items():
        for person, names in persons.items():
            for name in names:
                write_frames(root / split / person / name, "1.jpg", "2.jpg")
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    return write_set(tmp_path / "mine", TRACKLETS)


def brief(raw: RawSplits, split: str) -> list[tuple[str, str, str]]:
    """(person, camera, tracklet folder)."""
    return [
        (raw.person(t.pid), raw.cameras[t.camid] if raw.cameras else "", Path(t.frames[0]).parent.name)
        for t in getattr(raw, split)
    ]


def parse_all(root: Path) -> tuple[RawSplits, list]:
    faults = []
    return parse_folder(root, on_fault=faults.append), faults


def refusal(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        parse_folder(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_texts_become_ids_in_their_order_over_all_splits_and_cameras_in_natural_order(root):
    raw = parse_folder(root)
    assert raw.persons == {1: "Zoë", 2: "anna b", 3: "carl"}
    assert raw.cameras == ("c1", "c2", "c10")
    assert [(t.pid, t.camid) for t in raw.train] == [(1, 1), (1, 2), (2, 1)]
    assert [(t.pid, t.camid) for t in raw.query] == [(3, 0)]
    assert [(t.pid, t.camid) for t in raw.gallery] == [(2, 2), (3, 1)]
    assert (raw.root, raw.gallery_includes_query) == (str(root), False)
    assert not raw.val_query and not raw.val_gallery


def test_frames_come_in_natural_order_without_hidden_and_other_files(root):
    folder = root / "query" / "carl" / "c1_1"
    write_frames(folder, "10.jpg", "3.JPEG", "4.png", "5.bmp", "6.WebP", ".7.jpg", "Thumbs.db", "notes.txt")
    (folder / "8.jpg").mkdir()
    write_frames(root / "query" / ".hidden" / "c1_1", "1.jpg")
    write_frames(root / "query", "list.txt")
    raw = parse_folder(root)
    names = ("1.jpg", "2.jpg", "3.JPEG", "4.png", "5.bmp", "6.WebP", "10.jpg")
    assert [t.frames for t in raw.query] == [tuple(str(folder / name) for name in names)]


def test_the_camera_is_what_stands_before_the_last_underscore_and_without_one_there_are_no_cameras(tmp_path):
    tracklets = {"train": {"p": ["hall_2_x"]}, "query": {"p": ["hall_10_"]}, "gallery": {"p": ["hall_2_y"]}}
    raw = parse_folder(write_set(tmp_path / "a", tracklets))
    assert raw.cameras == ("hall_2", "hall_10")
    assert brief(raw, "query") == [("p", "hall_10", "hall_10_")]
    tracklets = {"train": {"p": ["1", "2"]}, "query": {"q": ["c1"]}, "gallery": {"q": ["c2"]}}
    raw = parse_folder(write_set(tmp_path / "b", tracklets))
    assert raw.cameras == () and len(raw.train) == 2
    assert {t.camid for t in (*raw.train, *raw.query, *raw.gallery)} == {0}


def test_a_missing_folder_is_named_with_the_layout_expected(root, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "file", tmp_path / "empty"):
        message = refusal(path)
        assert str(path) in message and "<person>/<camera>_<tracklet>" in message
    for split in TRACKLETS:
        (root / split).rename(root / "elsewhere")
        with pytest.raises(MissingFileError, match=f"{root / split} is missing.*<person>/<camera>_<tracklet>"):
            parse_folder(root)
        (root / "elsewhere").rename(root / split)


def test_the_parent_and_linked_folders_are_read_the_same(root, tmp_path):
    raw = parse_folder(root)
    assert parse_folder(str(root.parent)) == raw
    elsewhere = tmp_path / "linked"
    elsewhere.mkdir()
    for split in TRACKLETS:
        (elsewhere / split).symlink_to(root / split)
    linked = parse_folder(elsewhere)
    assert linked.persons == raw.persons
    assert linked.train[0].frames[0] == raw.train[0].frames[0].replace(str(root), str(elsewhere))
    assert "several" in refusal(tmp_path)


def test_tracklets_without_camera_among_others_are_faults_with_their_frames_and_left_out(root):
    write_frames(root / "train" / "carl" / "walk", "1.jpg")
    write_frames(root / "train" / "carl" / "_9", "1.jpg")
    assert f"{root / 'train' / 'carl' / '_9'} names no camera" in refusal(root)
    raw, faults = parse_all(root)
    assert [(fault.frames, fault.root, fault.split) for fault in faults] == [
        ((str(root / "train" / "carl" / name / "1.jpg"),), str(root), "train") for name in ("_9", "walk")
    ]
    assert all("<camera>_<tracklet>" in fault.message for fault in faults)
    assert [person for person, *_ in brief(raw, "train")] == ["Zoë", "Zoë", "anna b"]


def test_names_that_begin_with_an_underscore_name_no_camera_and_are_not_taken_for_data_without_cameras(tmp_path):
    for split in ("train", "query", "gallery"):
        write_frames(tmp_path / split / "ann" / "_1", "1.jpg")
    assert "_1 names no camera although others do" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("place", "name", "problem"),
    [
        ("train/dora", "notes.txt", "holds no tracklet folder"),
        ("train/dora", "1.jpg", "holds no tracklet folder"),  # a frame beside tracklet folders makes none
        ("train/carl/c1_5", "notes.txt", "holds no image"),
        ("train/dora", "", "cannot be read"),  # a link that leads nowhere
    ],
)
def test_folders_without_frames_are_faults_that_name_them_and_are_left_out(root, place, name, problem):
    write_frames(root / "train" / "carl" / "c1_6", "1.jpg")
    before = parse_folder(root)
    if name:
        write_frames(root / place, name)
    else:
        (root / place).symlink_to(root / "nowhere")
    files = sorted(root.rglob("*"))
    assert f"{root / place} {problem}" in refusal(root)
    raw, faults = parse_all(root)
    assert [fault.split for fault in faults] == ["train"]
    assert raw == before and sorted(root.rglob("*")) == files  # nothing is written


def test_a_folder_that_may_not_be_read_is_a_fault(root, monkeypatch):
    locked = str(root / "train" / "anna b" / "c2_0001")
    scandir = os.scandir

    def guarded(path):
        if str(path) == locked:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert f"{locked} cannot be read (Permission denied)" in refusal(root)
    raw, faults = parse_all(root)
    assert len(faults) == 1 and len(raw.train) == 2


def test_names_that_are_not_utf8_or_hold_a_line_break_give_one_line(root):
    folder = os.fsencode(root) + b"/train/caf\xe9/c1_1"
    os.makedirs(folder)
    open(folder + b"/1.jpg", "w").close()
    assert "not UTF-8" in refusal(root)
    (root / "gallery" / "two\nlines").mkdir()
    raw, faults = parse_all(root)
    assert len(faults) == 2 and all("\n" not in fault.message for fault in faults)
    assert [fault.message.encode() for fault in faults]
    assert len(raw.train) == 3


def test_natural_order_takes_digits_as_numbers():
    names = ["c10", "c2", "c02", "c1b", "c", "10", "9", "c1a2", "c1a10", "1" * 5000]
    assert sorted(names, key=natural_key) == ["9", "10", "1" * 5000, "c", "c1a2", "c1a10", "c1b", "c02", "c2", "c10"]
