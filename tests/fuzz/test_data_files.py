"""Lists, tables, folders and archives of data sets: tracklets, or one line that names the file or folder."""

import io
import os
import shutil
import string
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import savemat

from configs import load_cfg
from datasets import load_splits
from datasets.exclusion import read_exclusions
from datasets.items import TrainItems
from datasets.own.folder import parse_folder
from datasets.own.manifest import parse_manifest
from datasets.sets.archive import unpack_tar
from datasets.sets.ilidsvid import parse_ilidsvid
from datasets.sets.lsvid import parse_lsvid
from datasets.sets.mars import parse_mars
from datasets.sets.matlab import read_matlab73
from datasets.sets.matlab5 import read_matlab5
from datasets.sets.msmt17 import parse_msmt17
from datasets.synthetic.command import write_set
from tests.datasets.own import manifest_files
from tests.datasets.sets import archive_files, ilidsvid_files, lsvid_files
from tests.fuzz.conftest import accepts
from tests.fuzz.mutations import altered, altered_bytes, odd_texts

NAMES = st.text(string.ascii_letters + string.digits + "_-. ü\n\u2028\udc80", min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)


@pytest.fixture(scope="module")
def mars(tiny_mars, tmp_path_factory) -> Path:
    """A copy whose lists are altered."""
    return Path(shutil.copytree(tiny_mars, tmp_path_factory.mktemp("fuzz") / "mars"))


def file_target(fuzz, inputs: int, path: Path, parse, root: Path, text: bool) -> None:
    """Alter one file of a sound data set and parse it."""
    sound = path.read_bytes()

    def work(content: bytes) -> bool:
        path.write_bytes(content)
        return accepts(parse, root, names=(str(path), str(root)))

    try:
        fuzz(inputs, altered(sound, text), work, child=True)
    finally:
        path.write_bytes(sound)


def test_name_lists_of_mars(fuzz, mars):
    file_target(fuzz, 20, mars / "info" / "train_name.txt", parse_mars, mars, text=True)


@pytest.mark.parametrize("name", ["tracks_train_info.mat", "query_IDX.mat"])
def test_tables_of_mars(fuzz, mars, name):
    file_target(fuzz, 20, mars / "info" / name, parse_mars, mars, text=False)


def test_values_in_matlab_5_files(fuzz, tmp_path):
    path = tmp_path / "table.mat"
    dtypes = st.one_of(
        arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(), arrays.floating_dtypes(sizes=(32, 64)),
        arrays.boolean_dtypes(), arrays.complex_number_dtypes(), arrays.unicode_string_dtypes(max_len=4),
    )  # fmt: skip
    values = arrays.arrays(dtypes, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))

    def work(drawn) -> bool:
        array, name, compressed = drawn
        savemat(path, {name: array}, do_compression=compressed)
        return accepts(read_matlab5, path, "table", names=(str(path),))

    fuzz(25, st.tuples(values, st.sampled_from(["table", "table", "other"]), st.booleans()), work, child=True)


def test_matlab_7_files(fuzz, tmp_path):
    path = tmp_path / "info.mat"
    lsvid_files.write_query(path, np.array([[6.0, 1.0]]))
    content = path.read_bytes()

    def work(content: bytes) -> bool:
        path.write_bytes(content)
        return accepts(read_matlab73, path, "query", names=(str(path),))

    fuzz(30, altered_bytes(content), work, child=True)


def test_lists_of_ls_vid(fuzz, tmp_path):
    root = lsvid_files.write_set(tmp_path / "LS-VID")
    file_target(fuzz, 20, root / lsvid_files.LISTS[1], parse_lsvid, root, text=True)


def test_splits_of_ilids_vid(fuzz, tmp_path):
    root = ilidsvid_files.write_set(tmp_path / "set")
    file_target(fuzz, 15, root / ilidsvid_files.SPLIT_FILE, parse_ilidsvid, root, text=False)


def test_lists_of_msmt17(fuzz, tmp_path):
    root = tmp_path / "msmt"
    write_set(root, "msmt17", train_ids=2, test_ids=2, cameras=2, tracklets=2, size=(32, 16), workers=0)
    path = next(path for path in sorted(root.rglob("list_*.txt")) if "query" in path.name)
    file_target(fuzz, 15, path, parse_msmt17, path.parent, text=True)


@pytest.mark.parametrize("boxes", [False, True])
def test_manifests(fuzz, tmp_path, boxes):
    folder = manifest_files.write_pictures(tmp_path / "own")
    rows = [f"{split},p{i},c{i % 2},t{i},pics/{1 + i % 2}.png" for i, split in enumerate(("train", "query", "gallery"))]
    header = manifest_files.BOXED if boxes else manifest_files.HEADER
    path = manifest_files.write_table(folder, *(row + ",0,0,4,4" * boxes for row in rows), header=header)

    def parse(root) -> None:
        parse_manifest(root, cache_dir=str(tmp_path / "cache"))

    file_target(fuzz, 25, path, parse, path, text=True)


def test_lists_of_frames_to_leave_out(fuzz, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('split,frame,reason\ntrain,a/1.jpg,blurred\n,"b,2.jpg",\n')
    file_target(fuzz, 25, path, lambda path: read_exclusions(str(path)), path, text=True)


def test_items_of_training(fuzz):
    words = st.sampled_from(["auto", "chunks", "windows", "tracklets", "8", "4"])
    texts = st.lists(st.one_of(odd_texts, words, words, words), max_size=4).map(" ".join)

    def items(text: str) -> None:
        chosen = load_cfg(opts=["DATASETS.TRAIN_ITEMS", text]).DATASETS.TRAIN_ITEMS.strip()
        if chosen != "auto":
            parsed = TrainItems.parse(chosen)
            assert TrainItems.parse(str(parsed)) == parsed

    fuzz(50, texts, lambda text: accepts(items, text, names=("DATASETS.TRAIN_ITEMS",)))


def test_folders_of_own_crops(fuzz, tmp_path):
    persons = st.dictionaries(NAMES, st.dictionaries(NAMES, st.lists(NAMES, max_size=3), max_size=3), max_size=3)
    root = tmp_path / "own"

    def work(tree) -> bool:
        shutil.rmtree(root, ignore_errors=True)
        for split, people in zip(("train", "query", "gallery"), tree):
            (root / split).mkdir(parents=True)
            for person, tracklets in people.items():
                (root / split / person).mkdir(exist_ok=True)
                for tracklet, frames in tracklets.items():
                    folder = root / split / person / tracklet
                    folder.mkdir(exist_ok=True)
                    for frame in frames:
                        (folder / f"{frame}.jpg").touch()
        return accepts(parse_folder, root, names=(str(root),))

    fuzz(20, st.lists(persons, min_size=3, max_size=3), work, child=True)


def test_names_of_data_sets(fuzz, mars):
    names = st.one_of(odd_texts, st.sampled_from(["mars", "MARS", "LS-VID", "iLIDS", "folder", "market-1501", "video"]))

    def work(name: str) -> bool:
        return accepts(load_splits, name, mars, names=("DATASETS.NAMES", "DATASETS.ROOT_DIR", str(mars)))

    fuzz(15, names, work, child=True)


def tar_work(path: Path, cache: Path):
    """Unpack the archive; nothing may be written beside the cache."""
    outside = sorted(os.listdir(path.parent))

    def work(content: bytes) -> bool:
        path.write_bytes(content)
        shutil.rmtree(cache, ignore_errors=True)
        accepted = accepts(unpack_tar, path, cache, archive_files.is_image, names=(str(path),))
        assert set(os.listdir(path.parent)) <= {*outside, path.name, cache.name}
        for folder, _, files in os.walk(cache):
            assert not any(os.path.islink(os.path.join(folder, file)) for file in files)
        return accepted

    return work


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_bytes_of_archives(fuzz, tmp_path, mode):
    path = archive_files.write_tar(tmp_path / "set.tar", mode=mode)
    fuzz(15, altered_bytes(path.read_bytes()), tar_work(path, tmp_path / "cache"), child=True)


def test_members_of_archives(fuzz, tmp_path):
    path, cache = tmp_path / "set.tar", tmp_path / "cache"
    part = st.sampled_from(["a", "b", "c.png", "..", ".", ""])
    names = st.lists(st.one_of(st.sampled_from("abcdef"), part, NAMES), min_size=1, max_size=3).map("/".join)
    odd = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
    kinds = [tarfile.REGTYPE] * 9 + odd
    member = st.tuples(names, st.sampled_from(kinds), names, st.sampled_from([".png", ".png", ""]))

    def built(members) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, kind, link, ending in members:
                content = b"12345" if kind == tarfile.REGTYPE else b""
                info = archive_files.member(name + ending, kind, linkname=link, size=len(content))
                tar.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    fuzz(30, st.lists(member, max_size=5).map(built), tar_work(path, cache), child=True)
