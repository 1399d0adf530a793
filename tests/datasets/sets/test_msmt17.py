"""MSMT17 lists -> tracklets of one frame: both versions, people of train and test apart, one clear error per fault."""

import re
from pathlib import Path

import pytest
from PIL import Image

from datasets import check_frames_present, load_splits, official_name
from datasets.check import command as check
from datasets.sets.msmt17 import parse_msmt17
from tests.refusals import refused, with_faults
from utils.errors import MissingFileError

# person, image, camera; the people of each list count from 0
LISTS = {
    "train": ((2, 0, 1), (0, 0, 15), (0, 1, 2), (1, 0, 10)),
    "val": ((2, 1, 4), (0, 2, 2)),
    "query": ((1, 0, 3), (0, 0, 1)),
    "gallery": ((0, 1, 1), (0, 2, 14), (1, 1, 9)),
}
V1, V2 = ("train", "test"), ("mask_train_v2", "mask_test_v2")


def image(person: int, number: int, camera: int) -> str:
    return f"{person:04d}/{person:04d}_{number:03d}_{camera:02d}_0303morning_0008_{number}.jpg"


def write_set(root: Path, folders=V1, end: str = "\n") -> Path:
    root.mkdir(parents=True)
    for name, entries in LISTS.items():
        folder = root / folders[name in ("query", "gallery")]
        for entry in entries:
            path = folder / image(*entry)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        lines = [f"{image(*entry)} {entry[0]}{end}" for entry in entries]
        (root / f"list_{name}.txt").write_bytes("".join(lines).encode())
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    return write_set(tmp_path / "data" / "MSMT17_V1")


def brief(tracklets) -> list[tuple[int, int, str]]:
    assert all(len(t.frames) == 1 for t in tracklets)
    return [(t.pid, t.camid, "/".join(Path(t.frames[0]).parts[-3:])) for t in tracklets]


def add_line(root: Path, name: str, line: str) -> str:
    """Append a line to a list; what an error says of its place."""
    path = root / f"list_{name}.txt"
    path.write_text(path.read_text() + line + "\n")
    return f"{path} line {len(LISTS[name]) + 1}"


def test_every_line_is_a_tracklet_and_validation_is_part_of_the_training(root):
    splits = load_splits("MSMT17", str(root))
    assert brief(splits.train) == [
        (2, 0, f"train/{image(2, 0, 1)}"), (0, 14, f"train/{image(0, 0, 15)}"), (0, 1, f"train/{image(0, 1, 2)}"),
        (1, 9, f"train/{image(1, 0, 10)}"), (2, 3, f"train/{image(2, 1, 4)}"), (0, 1, f"train/{image(0, 2, 2)}"),
    ]  # fmt: skip
    names = [f"test/{image(1, 0, 3)}", f"test/{image(0, 0, 1)}"]
    assert [(camid, name) for _, camid, name in brief(splits.query)] == list(zip((2, 0), names))
    assert [t.camid for t in splits.gallery] == [0, 13, 8]
    assert (splits.num_classes, splits.num_cameras, splits.gallery_includes_query) == (3, 15, False)
    assert splits.val_query == () and splits.train[0].frames == (str(root / "train" / image(2, 0, 1)),)
    check_frames_present(splits)


def test_equal_numbers_in_train_and_test_are_different_people_with_the_names_of_the_list(root):
    raw = parse_msmt17(root)
    trained, tested = {t.pid for t in raw.train}, {t.pid for t in (*raw.query, *raw.gallery)}
    assert trained == {0, 1, 2} and not trained & tested
    # A query and its true matches are still one person, and files of results have the number of the list.
    assert [t.pid for t in raw.query] == [raw.gallery[2].pid, raw.gallery[0].pid]
    assert [raw.person(t.pid) for t in raw.query] == ["1", "0"] and [raw.person(pid) for pid in (0, 1)] == ["0", "1"]
    splits = load_splits("MSMT17", str(root))
    assert set(splits.names()["test_ids"].values()) == {"0", "1"} and splits.train_persons == ("0", "1", "2")


@pytest.mark.parametrize("name", ["MSMT17", "msmt", "msmt-17"])
@pytest.mark.parametrize(("folder", "images"), [("MSMT17_V1", V1), ("MSMT17_V2", V2), ("pictures", V2)])
def test_both_versions_from_their_folder_or_its_parent(tmp_path, name, folder, images):
    assert official_name(name) == "MSMT17"
    root = write_set(tmp_path / "all" / folder, images, end="\r\n" if images is V2 else "\n")
    (tmp_path / "all" / "LS-VID" / "test").mkdir(parents=True)  # another set has such a folder too
    splits = load_splits(name, str(root))
    assert splits == load_splits(name, str(root.parent))
    assert splits.query[0].frames == (str(root / images[1] / image(1, 0, 3)),)
    check_frames_present(splits)


def test_two_versions_are_not_chosen_between(root):
    write_set(root.with_name("MSMT17_V2"), V2)
    refused("several sets: MSMT17_V1, MSMT17_V2; name one", parse_msmt17, root.parent)
    (root / V2[0]).mkdir()
    assert "test" in parse_msmt17(root).query[0].frames[0]
    (root / V2[1]).mkdir()
    refused("holds the images of MSMT17_V1 and of MSMT17_V2 .train, test, mask_train_v2", parse_msmt17, root)


@pytest.mark.parametrize("from_parent", [False, True])
@pytest.mark.parametrize("name", ["list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt", *V1])
def test_a_missing_list_or_folder_is_named(root, name, from_parent):
    (root / name).rename(root / "elsewhere")
    with pytest.raises(MissingFileError, match=f"^{re.escape(str(root / name))} is missing"):
        load_splits("MSMT17", str(root.parent if from_parent else root))


def test_an_unreadable_or_empty_list_and_a_missing_image_are_named(root):
    (root / "train" / image(2, 0, 1)).unlink()
    with pytest.raises(MissingFileError, match=f"{image(2, 0, 1)} is missing although the lists"):
        check_frames_present(load_splits("MSMT17", str(root)))
    (root / "list_query.txt").write_text("\n")
    refused("MSMT17 in .* has no query tracklet", load_splits, "MSMT17", str(root))
    (root / "list_query.txt").write_bytes(b"\xff\xfe\x00")
    refused("list_query.txt cannot be read as a list of images", load_splits, "MSMT17", str(root))
    with pytest.raises(MissingFileError, match="nowhere is not a folder; set it to the folder of MSMT17"):
        parse_msmt17(root / "nowhere")


@pytest.mark.parametrize("line", ["0003/x_0_01_0.jpg", "0003/x_0_01_0.jpg 1.5", "0003/x_0_01_0.jpg -1", " 3", "",
                                  "0003/x_0_01_0.jpg 10000", "/0003/x_0_01_0.jpg 3", "../0003/x_0_01_0.jpg 3",
                                  "0003/x\0_0_01_0.jpg 3"])  # fmt: skip
def test_a_line_that_is_none_is_named(root, line):
    where = add_line(root, "gallery", line + "\n" + f"{image(1, 5, 2)} 1")
    said = f"{where}: expected an image below its folder, a space and a person (a whole number of at most four digits)"
    refused(f"^{re.escape(said)}, found {re.escape(repr(line.rstrip()))}", parse_msmt17, root)
    faults, raw = with_faults(parse_msmt17, root)
    assert [fault.frames for fault in faults] == [()] and len(raw.gallery) == 4 and raw.gallery[-1].camid == 1


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("0003_000_01.jpg", "image '0003_000_01.jpg' needs four fields parted by '_', the third of them the camera"),
        ("0003_000_16_0303noon_1.jpg", "camera '16', its third field, is not one of 1..15"),
        ("0003_000_00_0303noon_1.jpg", "camera '00', its third field, is not one of 1..15"),
        ("0003_000_c1_0303noon_1.jpg", "camera 'c1', its third field, is not one of 1..15"),
    ],
)
def test_a_wrong_name_is_told_with_its_line_and_can_be_left_out(root, tmp_path, name, wrong):
    before = load_splits("MSMT17", str(root))
    where = add_line(root, "val", f"0003/{name} 3")
    refused(f"^{re.escape(where)}: .*{re.escape(wrong)}", load_splits, "MSMT17", str(root))
    (tmp_path / "list.csv").write_text(f"split,frame,reason\ntrain,train/0003/{name},\n")
    assert load_splits("MSMT17", str(root), exclude=str(tmp_path / "list.csv")).train == before.train


def test_an_image_of_two_lines_and_a_folder_of_two_people_are_told(root):
    query = image(*LISTS["query"][0])
    twice = add_line(root, "gallery", f"{query} 1")
    mixed = add_line(root, "val", f"{image(0, 7, 3)} 1")
    flat = [add_line(root, "train", f"{person:04d}_000_02_0303noon_1_0.jpg {person}") for person in (5, 6)]
    faults, raw = with_faults(parse_msmt17, root)
    assert {fault.message: fault.frames for fault in faults} == {
        f"{twice}: image '{query}' is named in {root / 'list_query.txt'} line 1 already": (),
        f"{mixed}: '{image(0, 7, 3)}' is of person 1, its folder of person 0 ({root / 'list_train.txt'} line 2)": (
            str(root / "train" / image(0, 7, 3)),
        ),
    }
    assert len(flat) == 2 and len(raw.train) == 8 and len(raw.gallery) == 3
    refused(f"^{re.escape(twice)}: image '{query}' is named in .* line 1 already$", parse_msmt17, root)


def test_the_check_counts_and_takes_no_two_people_for_one(root, capsys):
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        Image.new("RGB", (20, 40), (20 * number, 0, 0)).save(path)
    (root / "train" / "._hidden.jpg").touch()
    (root / "train" / "Thumbs.db").touch()
    keys = ("DATASETS.NAMES", "msmt", "DATASETS.ROOT_DIR", str(root), "INPUT.SEQ_LEN", "1", "DATALOADER.NUM_INSTANCE",
            "2", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "4")  # fmt: skip
    assert check.main(keys) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"MSMT17 in {root}"
    assert [line.split() for line in lines[2:5]] == [
        ["train", "3", "6", "6", "5", "1,041", "32,621"],
        ["query", "2", "2", "2", "2", "3,060", "11,659"],
        ["gallery", "2", "3", "3", "3", "3,060", "82,161"],
    ]
    assert lines[-1] == "no problem found" and len([line for line in lines if line.startswith("note: ")]) == 2
