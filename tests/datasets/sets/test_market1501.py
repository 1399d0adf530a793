"""Market-1501 folders -> tracklets of one frame: membership, cameras, labels, and one clear error per fault."""

import re
from pathlib import Path

import pytest
from PIL import Image

from datasets import check_frames_present, load_splits, official_name
from datasets.check import command as check
from datasets.sets.market1501 import parse_market1501
from tests.refusals import refused, with_faults
from utils.errors import MissingFileError

# ids out of order; junk (-1) and distractors (0000) between the others
TRAIN = ("0030_c2s1_000451_03.jpg", "0007_c1s1_000001_01.jpg", "0007_c6s3_000002_02.jpg", "0012_c4s1_000003_01.jpg",
         "-1_c4s1_000004_01.jpg")  # fmt: skip
QUERY = ("0005_c1s1_001051_00.jpg", "0009_c6s2_000151_00.jpg")
GALLERY = ("-1_c1s1_000401_03.jpg", "0000_c3s1_000151_01.jpg", "0005_c2s1_001076_01.jpg", "0009_c1s4_000002_05.JPG",
           "0005_c1s1_001052_02.jpg")  # fmt: skip
FOLDERS = {"bounding_box_train": TRAIN, "query": QUERY, "bounding_box_test": GALLERY}


@pytest.fixture
def root(tmp_path) -> Path:
    """Eleven images in the layout of the release, with what else lies there."""
    root = tmp_path / "data" / "Market-1501-v15.09.15"
    for folder, names in FOLDERS.items():
        (root / folder).mkdir(parents=True)
        for name in (*names, "Thumbs.db", f"._{names[0]}"):
            (root / folder / name).touch()
    (root / "gt_bbox").mkdir()
    (root / "gt_bbox" / "anything.jpg").touch()
    (root / "readme.txt").touch()
    return root


def brief(tracklets) -> list[tuple[int, int, str]]:
    assert all(len(t.frames) == 1 for t in tracklets)
    return [(t.pid, t.camid, Path(t.frames[0]).name) for t in tracklets]


def test_every_image_is_a_tracklet_of_its_person_and_camera(root):
    splits = load_splits("Market1501", str(root))
    # Labels follow the sorted ids 7 < 12 < 30, cameras count from 0; test ids are the set's own.
    assert brief(splits.train) == [(0, 0, TRAIN[1]), (0, 5, TRAIN[2]), (1, 3, TRAIN[3]), (2, 1, TRAIN[0])]
    assert brief(splits.query) == [(5, 0, QUERY[0]), (9, 5, QUERY[1])]
    assert brief(splits.gallery) == [(0, 2, GALLERY[1]), (5, 0, GALLERY[4]), (5, 1, GALLERY[2]), (9, 0, GALLERY[3])]
    assert (splits.num_classes, splits.num_cameras, splits.gallery_includes_query) == (3, 6, False)
    assert splits.train_persons == ("7", "12", "30") and splits.cameras == tuple("123456")
    assert splits.query[0].frames == (str(root / "query" / QUERY[0]),) and splits.root == str(root)
    check_frames_present(splits)


@pytest.mark.parametrize("name", ["Market1501", "market-1501", "MARKET", "Market 1501"])
def test_the_names_and_the_parent_folder_give_the_same_splits(root, name):
    assert official_name(name) == "Market1501"
    (root.parent / "mine" / "query").mkdir(parents=True)  # of somebody's own data
    assert load_splits(name, str(root.parent)) == load_splits("Market1501", str(root))


@pytest.mark.parametrize("from_parent", [False, True])
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_missing_folder_is_named(root, folder, from_parent):
    (root / folder).rename(root / "elsewhere")
    with pytest.raises(MissingFileError, match=f"^{re.escape(str(root / folder))} is missing"):
        load_splits("Market1501", str(root.parent if from_parent else root))


def test_a_missing_root_two_sets_and_an_empty_folder_are_named(root):
    with pytest.raises(MissingFileError, match="nowhere is not a folder; set it to the folder of Market1501"):
        parse_market1501(root / "nowhere")
    (root.parent / "other" / "bounding_box_train").mkdir(parents=True)
    refused("several sets: Market-1501-v15.09.15, other; name one", parse_market1501, root.parent)
    for name in QUERY:
        (root / "query" / name).unlink()
    refused("Market1501 in .* has no query tracklet", load_splits, "Market1501", str(root))
    refused("Market1501 has no option 'split'", load_splits, "Market1501", str(root), split="1")


@pytest.mark.parametrize(
    ("folder", "name", "wrong"),
    [
        ("bounding_box_train", "0002_c1_000451_03.jpg", "expected a name like 0002_c1s1_000451_03.jpg"),
        ("bounding_box_train", "2_c1s1_000451_03.jpg", "expected a name like"),
        ("bounding_box_test", "-2_c1s1_000451_03.jpg", "expected a name like"),
        ("bounding_box_test", "copy of 0002_c1s1_000451_03.jpg", "expected a name like"),
        ("query", "0005_c1s1_000451.png", "expected a name like"),
        ("bounding_box_train", "0002_c7s1_000451_03.jpg", "camera 7 is not one of 1..6"),
        ("bounding_box_test", "0002_c0s1_000451_03.jpg", "camera 0 is not one of 1..6"),
        ("query", "0000_c1s1_000451_00.jpg", "person 0 is a distractor, no one to find"),
        ("bounding_box_train", "0000_c1s1_000451_00.jpg", "person 0 is a distractor, no one to train with"),
        ("query", "-1_c1s1_000451_00.jpg", "a query cannot be junk (person -1)"),
    ],
)
def test_a_fault_names_the_image_and_can_be_left_out(root, tmp_path, folder, name, wrong):
    before = load_splits("Market1501", str(root))
    (root / folder / name).touch()
    refused(f"^{re.escape(f'{root / folder / name}: {wrong}')}", load_splits, "Market1501", str(root))
    faults, _ = with_faults(parse_market1501, root)
    split = {"bounding_box_train": "train", "bounding_box_test": "gallery", "query": "query"}[folder]
    assert [(fault.frames, fault.split, fault.blocks) for fault in faults] == [
        ((str(root / folder / name),), split, True)
    ]
    (tmp_path / "list.csv").write_text(f"split,frame,reason\n{split},{folder}/{name},\n")
    after = load_splits("Market1501", str(root), exclude=str(tmp_path / "list.csv"))
    assert (after.train, after.query, after.gallery) == (before.train, before.query, before.gallery)


def test_the_check_counts_and_needs_no_mention_of_junk(root, capsys):
    for number, path in enumerate(root / folder / name for folder, names in FOLDERS.items() for name in names):
        Image.new("RGB", (20, 40), (20 * number, 0, 0)).save(path)
    keys = ("DATASETS.NAMES", "market", "DATASETS.ROOT_DIR", str(root), "INPUT.SEQ_LEN", "1", "DATALOADER.NUM_INSTANCE",
            "2", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "4")  # fmt: skip
    assert check.main(keys) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Market1501 in {root}"
    assert [line.split() for line in lines[2:5]] == [
        ["train", "3", "4", "4", "4", "751", "12,936"],
        ["query", "2", "2", "2", "2", "750", "3,368"],
        ["gallery", "3", "4", "4", "3", "751", "15,913"],
    ]
    # Junk, hidden files and gt_bbox need no mention; 12 and 30 have one image each, which a video would have too.
    assert [line for line in lines[7:] if not line.startswith("note: ids or tracklets of")] == [
        "note: 2 of 3 identities have fewer than 2 training items (DATALOADER.NUM_INSTANCE), which are drawn with "
        "replacement: 12, 30",
        "no problem found",
    ]
