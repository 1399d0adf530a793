"""datasets.check on sets other than MARS: ten splits, a validation part, own data, and sets too small for a batch."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import load_splits
from datasets.check import command as check
from datasets.check.folders import scan_folders, unused_images
from tests.datasets.check.test_check import rows
from tests.datasets.sets import ilidsvid_files, lsvid_files
from utils.errors import InputError

SMALL_BATCH = ("SOLVER.IMS_PER_BATCH", "4", "DATALOADER.NUM_INSTANCE", "2")


def draw(path: Path, number: int) -> None:
    """A picture of 20 x 40 pixels that no other number gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (40, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def draw_all(root: Path) -> Path:
    """Turn the empty images below the root into pictures."""
    for number, path in enumerate(sorted(path for path in root.rglob("*") if path.suffix in (".png", ".jpg"))):
        draw(path, number)
    return root


@pytest.fixture
def ilids(tmp_path) -> Path:
    return draw_all(ilidsvid_files.write_set(tmp_path / "set"))


@pytest.fixture
def lsvid(tmp_path) -> Path:
    root = lsvid_files.write_set(tmp_path / "LS-VID")
    lsvid_files.write_val(root)
    return draw_all(root)


@pytest.fixture
def own(tmp_path) -> Path:
    """Two persons to train with, one to test, in two cameras."""
    root = tmp_path / "own"
    names = ["train/a/c1_1", "train/a/c2_1", "train/b/c1_1", "query/z/c1_1", "gallery/z/c2_1"]
    for number, name in enumerate(names):
        draw(root / name / "1.png", number)
    return root


@pytest.fixture
def fix(tmp_path) -> Path:
    """Where a check writes the frames to leave out."""
    return tmp_path / "fix.csv"


@pytest.fixture
def run(capsys):
    """Check a set: exit code, report, messages on stderr."""

    def call(name: str, root: object, *flags: str, batch=SMALL_BATCH) -> tuple[int, str, str]:
        keys = ("DATASETS.NAMES", name, "DATASETS.ROOT_DIR", str(root), "DATALOADER.NUM_WORKERS", "0", *batch)
        return check.main([*flags, *keys]), *capsys.readouterr()

    return call


def test_a_fix_list_of_all_splits_holds_for_each_of_them(run, ilids, fix):
    frames = [f"sequences/cam{camera}/person001/cam{camera}_person001_{number:05d}.png"
              for camera, number in ((1, 9998), (2, 9999))]  # fmt: skip
    (ilids / "i-LIDS-VID" / frames[0]).unlink()  # the parser lists what is there, so this one is no fault
    (ilids / "i-LIDS-VID" / frames[1]).write_bytes(b"no image")
    rc, report, _ = run("iLIDS-VID", ilids, "--fix-list", str(fix), "DATASETS.SPLIT", "all")
    assert rc == 1 and f"frames that cannot be decoded: 1\n  {frames[1]} is no image\n" in report
    assert report.endswith("\n1 problem found (see above)\n")
    assert [row[:2] for row in rows(fix)[1:]] == [["", frames[1]]]
    for split in "0123456789":
        splits = load_splits("iLIDS-VID", str(ilids), exclude=str(fix), split=split)
        assert all(not f.endswith(frames[1]) for p in (splits.train, splits.query, splits.gallery)
                   for t in p for f in t.frames)  # fmt: skip
    rc, report, _ = run("iLIDS-VID", ilids, "DATASETS.SPLIT", "all", "DATASETS.EXCLUDE", str(fix))
    assert rc == 0 and "without a frame" not in report
    assert "note: DATASETS.EXCLUDE leaves out 1 of 29 frames\n" in report


def test_problems_that_depend_on_the_split_are_sought_in_all_and_name_it(run, ilids, fix):
    home = ilids / "i-LIDS-VID" / "sequences"
    first, second = (min((home / "cam1" / person).iterdir()) for person in ("person001", "person300"))
    shutil.copy(first, second)
    # Persons 1 and 300 have the numbers 1 and 6, which rows 8 and 9 of the splits put into one half.
    apart = list(range(8))
    rc, report, _ = run("iLIDS-VID", ilids, "--fix-list", str(fix), "--all", "DATASETS.SPLIT", "all")
    found = re.findall(r"  splits? ([\d, ]+): (train \S+) is query", report)
    assert rc == 1 and sorted(int(text) for numbers, _ in found for text in numbers.split(", ")) == apart
    rc, report, _ = run("iLIDS-VID", ilids, "DATASETS.SPLIT", "all", "DATASETS.EXCLUDE", str(fix))
    assert rc == 0 and "without a frame" not in report


def test_an_emptied_tracklet_of_ls_vid_is_named_once_and_can_be_left_out(run, lsvid, fix):
    prefix = lsvid_files.prefix("test", 5, 9)  # query row 6 of the list
    for path in (lsvid / prefix).parent.glob("0009_05*"):
        path.unlink()
    rc, report, _ = run("LS-VID", lsvid, "--fix-list", str(fix))
    assert rc == 1 and "line 6: no image starts with" in report and "do not delete the line" in report
    assert report.endswith("\n1 problem found (see above)\n") and "cannot be left out" not in report
    assert [row[:2] for row in rows(fix)[1:]] == [["query", prefix]]
    with pytest.raises(InputError, match="line 6: no image starts"):
        load_splits("LS-VID", str(lsvid))
    splits = load_splits("LS-VID", str(lsvid), exclude=str(fix))
    assert [t.pid for t in splits.query] == [501]
    rc, report, _ = run("LS-VID", lsvid, "DATASETS.EXCLUDE", str(fix))
    assert rc == 0 and "without a frame" not in report


def test_a_folder_that_a_tracklet_of_ls_vid_needs_is_not_named_twice(run, lsvid):
    for path in (lsvid / "tracklet_train" / "my people" / "0008").iterdir():
        path.unlink()
    rc, report, _ = run("LS-VID", lsvid)
    assert rc == 1 and "holds no file" not in report and "faults of the lists: 1\n" in report


def test_too_few_persons_are_a_problem_that_no_list_solves(run, own, fix):
    batch = ("SOLVER.IMS_PER_BATCH", "6", "DATALOADER.NUM_INSTANCE", "2")
    rc, report, _ = run("folder", own, "--fix-list", str(fix), batch=batch)
    text = "too few persons to train with: 1\n  train has 2 persons, a batch takes 3 (SOLVER.IMS_PER_BATCH"
    assert rc == 1 and text in report and "1 problem cannot be left out" in report and len(rows(fix)) == 1
    assert run("folder", own)[0] == 0
    rc, report, _ = run("folder", own, "SOLVER.SELECT_BY", "val")
    assert rc == 1 and "2 of 2 training identities cannot be held out" in report


def test_a_split_that_the_set_does_not_have_is_an_error(run, own):
    rc, _, errors = run("folder", own, "DATASETS.SPLIT", "3")
    assert rc == 2 and errors == "error: DATASETS.SPLIT 3: folder has one split; the key belongs to iLIDS-VID\n"


def test_the_validation_part_is_compared_with_train_and_test(run, lsvid):
    assert run("LS-VID", lsvid)[0] == 0
    listed = lsvid / "list_sequence" / "list_seq_val.txt"
    lines = listed.read_text().splitlines()
    # The tracklet of person 301 becomes one of person 8, who is in train, and holds a picture of the test.
    listed.write_text("\n".join([*lines[:3], lines[3].replace(" 301", " 8")]))
    picture = next(path for path in (lsvid / "tracklet_test").rglob("0009_05*"))
    shutil.copy(picture, next(path for path in (lsvid / "tracklet_val").rglob("0301_03*")))
    rc, report, _ = run("LS-VID", lsvid)
    kind = "persons of the validation part in train or in test: 1\n  person 8 is in train (1 tracklet) and in val\n"
    assert rc == 1 and kind in report
    assert re.search(r"the same picture in two splits: 1\n  val .*/0301_03\S* is query .*/0009_05", report)


def test_images_that_own_data_do_not_use_are_noted(run, own, ilids):
    assert "not used" not in run("folder", own)[1]
    for name in ("loose.JPG", "validation/x/c1_1/1.png", "train/a/c1_1/deep/1.png", "train/a/c1_1/2.tif", "b.gif"):
        draw(own / name, 99)
    (own / "notes.txt").touch()
    draw(own / ".hidden" / "1.png", 99)
    rc, report, _ = run("folder", own)
    assert rc == 0
    assert f"note: 5 image files below {own} are not used: b.gif, loose.JPG, train/a/c1_1/2.tif, ...\n" in report
    # The release of iLIDS-VID has single images beside the sequences.
    for name in ("images/cam1/person001/x.png", "extra/x.png"):
        draw(ilids / "i-LIDS-VID" / name, 99)
    report = run("iLIDS-VID", ilids)[1]
    assert f"note: 1 image file below {ilids / 'i-LIDS-VID'} is not used: extra/x.png\n" in report


def test_a_dot_or_a_list_beside_the_pictures_is_looked_into_no_further(run, own, tmp_path, monkeypatch):
    (tmp_path / "elsewhere" / "empty").mkdir(parents=True)
    monkeypatch.chdir(own)
    (own / "empty").mkdir()
    for root in (".", str(own), "../own"):
        assert run("folder", root)[0] == 0, root
    (tmp_path / "lists").mkdir()
    pictures = [("train", "a", "c1"), ("train", "b", "c1"), ("query", "z", "c1"), ("gallery", "z", "c2")]
    lines = [f"{s},{person},{camera},1,../own/{s}/{person}/{camera}_1/1.png" for s, person, camera in pictures]
    (tmp_path / "lists" / "list.csv").write_text("\n".join(["split,person,camera,tracklet,frame", *lines]))
    monkeypatch.chdir(tmp_path / "lists")
    for root in ("list.csv", str(tmp_path / "lists" / "list.csv")):
        assert run("manifest", root, "DATASETS.OUTSIDE", "allow")[0] == 0
        code, report, _ = run("manifest", root)
        assert code == 1 and "faults of the lists: 4\n" in report
        assert "row 2: ../own/train/a/c1_1/1.png lies outside of the list's folder; DATASETS.OUTSIDE allow" in report
    # A frame right in the root, and one above it, are no reason to look into a folder.
    assert scan_folders(".", {"./1.png", "../own/train/a/c1_1/1.png"}) == (set(), set(), {})
    monkeypatch.chdir(own)
    assert list(scan_folders(".", {"train/a/c1_1/1.png"}).unlisted) == [str(own / "train")]
    assert "query/z/c1_1/1.png" in unused_images(".", {"./train/a/c1_1/1.png"}, ("gallery",))


def test_reasons_are_kept_when_a_list_is_written_again(run, own, fix):
    fix.write_text("split,frame,reason\ntrain,train/a/c1_1/1.png,too dark\nquery,gone.png\n")
    (own / "train" / "a" / "c2_1" / "1.png").write_bytes(b"")
    draw(own / "train" / "a" / "c3_1" / "1.png", 77)
    run("folder", own, "--fix-list", str(fix), "DATASETS.EXCLUDE", str(fix))
    assert [row[2] for row in rows(fix)[1:3]] == ["too dark", "left out before"]
    assert rows(fix)[3][:2] == ["train", "train/a/c2_1/1.png"] and "holds no byte" in rows(fix)[3][2]


def test_other_sets_to_test_are_said_to_be_unchecked(run, own):
    assert "TEST.DATASETS" not in run("folder", own)[1]
    report = run("folder", own, "TEST.DATASETS", f"['MARS:{own}']")[1]
    assert report.count("note: only the set of DATASETS.NAMES is checked, not those of TEST.DATASETS\n") == 1
