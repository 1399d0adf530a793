"""Where iLIDS-VID is found: folders in their usual places, tar archives, what is passed over and what is missing."""

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from datasets.sets.ilidsvid import parse_ilidsvid
from tests.datasets.sets.ilidsvid_files import MAT, SPLIT_FILE, below, pids, write_persons, write_set, write_splits
from tests.refusals import refused
from utils.errors import InputError, MissingFileError


@pytest.fixture
def root(tmp_path) -> Path:
    return write_set(tmp_path / "set")


@pytest.fixture(autouse=True)
def no_cache_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.mark.parametrize(
    ("home", "splits", "given"),
    [
        ("i-LIDS-VID", SPLIT_FILE, "."),
        ("i-LIDS-VID", SPLIT_FILE, "i-LIDS-VID"),
        ("i-LIDS-VID", MAT, "."),
        ("i-LIDS-VID", f"i-LIDS-VID/{SPLIT_FILE}", "."),
        ("i-LIDS-VID", f"i-LIDS-VID/{SPLIT_FILE}", "i-LIDS-VID"),
        ("i-LIDS-VID", f"i-LIDS-VID/{MAT}", "i-LIDS-VID"),
        ("any/i-LIDS-VID", f"any/{SPLIT_FILE}", "."),
        ("any/i-LIDS-VID", f"any/{SPLIT_FILE}", "any"),
        ("ilids-vid/iLIDS-VID/i-LIDS-VID", f"ilids-vid/iLIDS-VID/{SPLIT_FILE}", "."),
        ("any/ilids-vid/i-LIDS-VID", f"any/ilids-vid/{SPLIT_FILE}", "any"),
        (".", SPLIT_FILE, "."),
        ("other name", SPLIT_FILE, "."),
    ],
)
def test_folders_are_found_in_their_usual_places(root, tmp_path, home, splits, given):
    place = tmp_path / "place"
    write_persons(place / home)
    write_splits(place / splits)
    (place / "MARS" / "info").mkdir(parents=True)
    (place / "iLIDS-VID.tar").write_bytes(b"an archive that is not opened")
    raw = parse_ilidsvid(place / given, split=4)
    assert below(raw) == below(parse_ilidsvid(root, split=4))
    assert raw.root == str(place / home)


def test_entries_that_are_no_person_and_no_image_and_a_second_name_of_the_folder_are_passed_over(root, monkeypatch):
    expected = parse_ilidsvid(root)
    (root / "iLIDS-VID").symlink_to(root / "i-LIDS-VID")
    camera = root / "i-LIDS-VID" / "sequences" / "cam1"
    for name in ("person", "personal", "person 9", "people003", ".person004", "flow"):
        (camera / name).mkdir()
    (camera / "person009").touch()
    (camera / "person001" / "Thumbs.db").touch()
    (camera / "person001" / "._cam1_person001_09998.png").touch()
    (camera / "person001" / "more.png").mkdir()
    assert parse_ilidsvid(root) == expected
    monkeypatch.chdir(root / "i-LIDS-VID")
    assert below(parse_ilidsvid("."))[0][0][:2] == below(expected)[0][0][:2]


def test_two_sets_are_named_unless_one_bears_the_name(tmp_path):
    for name in ("a", "b"):
        write_persons(tmp_path / "both" / name)
        write_splits(tmp_path / "both" / name / MAT)
    refused("several sets: a, b; name one", parse_ilidsvid, tmp_path / "both")
    write_persons(tmp_path / "both" / "ilids_vid", persons=(*range(10, 16),))
    write_splits(tmp_path / "both" / "ilids_vid" / MAT)
    assert set(pids(parse_ilidsvid(tmp_path / "both").query)) == {10, 11, 12}


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(MissingFileError, match="DATASETS.ROOT_DIR .*nowhere is neither a folder nor a tar file"):
        parse_ilidsvid(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match=r"empty/i-LIDS-VID/sequences is missing .*\*\.tar, .*iLIDS-VID.tar"):
        parse_ilidsvid(tmp_path / "empty")
    shutil.move(root / "train-test people splits", tmp_path / "elsewhere")
    with pytest.raises(MissingFileError, match=f"^{root / SPLIT_FILE} is missing .*authors"):
        parse_ilidsvid(root)
    write_splits(root / SPLIT_FILE)
    shutil.rmtree(root / "i-LIDS-VID" / "sequences" / "cam2")
    with pytest.raises(MissingFileError, match="sequences/cam2 is missing"):
        parse_ilidsvid(root)


def pack(root: Path, path: Path, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for top in sorted(root.iterdir()):
            tar.add(top, top.name)
    return path


@pytest.mark.parametrize(
    ("archive", "given"),
    [
        ("iLIDS-VID.tar", "iLIDS-VID.tar"),
        ("iLIDS-VID.tar", "."),
        ("i-LIDS-VID.TAR.GZ", "."),
        ("ilidsvid.tgz", "."),
        ("any name.tar", "."),
        ("raw/iLIDS-VID.tar", "."),
        ("iLIDS/raw/iLIDS-VID.tar", "."),
    ],
)
def test_an_archive_gives_the_same_tracklets_and_nothing_is_written_beside_it(root, tmp_path, archive, given):
    single = root / "i-LIDS-VID" / "images" / "cam1" / "person001"
    single.mkdir(parents=True)
    (single / "cam1_person001.png").touch()
    place, cache = tmp_path / "place", tmp_path / "cache"
    pack(root, place / archive, "w:gz" if "gz" in archive.lower() else "w")
    before = sorted(place.rglob("*"))
    for split, half in ((0, "last"), (7, "first")):
        raw = parse_ilidsvid(place / given, split=split, train_half=half, cache_dir=str(cache))
        assert below(raw) == below(parse_ilidsvid(root, split=split, train_half=half))
    # Without a cache folder the user's is taken.
    assert Path(parse_ilidsvid(place / given).root).is_relative_to(tmp_path / "xdg" / "tf-clip")
    assert Path(raw.root).is_relative_to(cache) and all(Path(t.frames[0]).is_file() for t in raw.train)
    assert sorted(place.rglob("*")) == before and len(os.listdir(cache)) == 1
    # Single images are not part of any tracklet.
    assert not list(cache.rglob("images"))


def test_of_several_archives_the_one_named_so_is_taken(root, tmp_path):
    place = tmp_path / "place"
    pack(root, place / "raw" / "I_LIDS-VID.tar")
    (place / "raw" / "epicflow.tar").write_bytes(b"optical flow")
    assert set(pids(parse_ilidsvid(place, cache_dir=tmp_path / "cache").query)) == {1, 2, 5}
    (place / "raw" / "I_LIDS-VID.tar").rename(place / "raw" / "data.tar")
    with pytest.raises(InputError, match="several archives: raw/data.tar, raw/epicflow.tar; name the one"):
        parse_ilidsvid(place, cache_dir=tmp_path / "cache")


def test_an_archive_of_something_else_or_none_is_refused(root, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "flow.png").touch()
    path = pack(tmp_path / "other", tmp_path / "iLIDS-VID.tar")
    refused(f"{path} is refused: it holds none of the files", parse_ilidsvid, path, cache_dir=tmp_path / "cache")
    write_splits(tmp_path / "other" / SPLIT_FILE)
    pack(tmp_path / "other", path)
    with pytest.raises(InputError, match=f"{path} .unpacked into .* holds no i-LIDS-VID/sequences"):
        parse_ilidsvid(path, cache_dir=tmp_path / "cache")
    path.write_bytes(b"rubbish" * 1000)
    refused(f"{path} is not a tar archive", parse_ilidsvid, path, cache_dir=tmp_path / "cache")
