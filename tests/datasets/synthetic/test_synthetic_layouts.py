"""The synthetic set in every layout: its files as distributed, read without the project's parsers."""

import re
import tarfile
from glob import glob
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from datasets.synthetic.command import LAYOUTS, main, write_set
from datasets.synthetic.walks import Plan, plan_tracklets, plan_validation, render
from utils.errors import InputError

TINY = {"train_ids": 3, "test_ids": 3, "frames": (2, 4), "size": (48, 24), "seed": 5}
TINY_WORDS = "--train-ids 3 --test-ids 3 --frames 2 4 --size 48 24 --seed 5 --workers 0".split()
TWO_CAMERAS = {"cameras": 2, "tracklets": 2}
SETS = {  # name -> arguments of write_set
    **{layout: {"layout": layout, **TWO_CAMERAS} for layout in LAYOUTS if layout != "ilids"},
    "lsvid in info": {"layout": "lsvid", "lists_in_info": True, **TWO_CAMERAS},
    "ilids": {"layout": "ilids"},
    "ilids tar": {"layout": "ilids", "tar": True},
}
PLAN = Plan(**TINY, **TWO_CAMERAS)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write one of SETS when it is first asked for; its folder."""
    roots = {}

    def write(name: str) -> Path:
        if name not in roots:
            roots[name] = tmp_path_factory.mktemp("synthetic") / "set"
            write_set(roots[name], workers=0, **SETS[name], **TINY)
        return roots[name]

    return write


def words_of(name: str) -> list[str]:
    """The arguments of one of SETS as words of the command."""
    words = []
    for key, value in SETS[name].items():
        words += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words + TINY_WORDS


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def walks(*splits: str) -> list:
    return [walk for walk in plan_tracklets(PLAN) + plan_validation(PLAN) if walk.split in splits]


def lines(path: Path) -> list[tuple[str, int]]:
    """(prefix, person) of each line."""
    assert path.read_text().endswith("\n")
    return [(line.split(" ")[0], int(line.split(" ")[1])) for line in path.read_text().splitlines()]


def apart(picture: np.ndarray, drawn: np.ndarray) -> float:
    """Mean difference in grey levels, which JPEG and video keep better than colours."""
    return float(np.abs(picture.mean(axis=2) - drawn.mean(axis=2)).mean())


def drawn_frames(pid: int, camera: int, number: int) -> list[np.ndarray]:
    key = (pid, camera, number)
    return next(render(walk, PLAN) for walk in plan_tracklets(PLAN) if (walk.pid, walk.camera, walk.number) == key)


@pytest.mark.parametrize(
    ("name", "workers"),
    [*((name, 0) for name in SETS), *(pytest.param(name, 1, marks=pytest.mark.slow) for name in ("mars", "video"))],
)
def test_equal_arguments_give_equal_bytes(written, tmp_path, name, workers):
    write_set(tmp_path / "again", workers=workers, **SETS[name], **TINY)
    assert contents(written(name)) == contents(tmp_path / "again")


@pytest.mark.parametrize("name", SETS)
def test_a_second_run_is_up_to_date_and_writes_nothing(written, capsys, name):
    root = written(name)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert main(["--root", str(root), *words_of(name)]) == 0
    assert re.match(rf"{re.escape(str(root))}: up to date, \d+ train \w+, .*\d+ queries", capsys.readouterr().out)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_a_folder_with_another_layout_is_not_replaced(written):
    names = list(SETS)
    for name, other in zip(names, [*names[1:], names[0]]):
        before = contents(written(name))
        with pytest.raises(InputError, match="other arguments"):
            write_set(written(name), workers=0, **SETS[other], **TINY)
        assert contents(written(name)) == before


@pytest.mark.parametrize("name", SETS)
def test_an_interrupted_run_leaves_nothing(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr("datasets.synthetic.walks.photograph", _interrupting(after=5))
    assert main(["--root", str(tmp_path / "set"), *words_of(name)]) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def _interrupting(after: int):
    calls = iter(range(after))

    def photograph(scene: np.ndarray, *_) -> np.ndarray:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return scene.astype(np.uint8)

    return photograph


@pytest.mark.parametrize(
    ("words", "part"),
    [("--cameras 7", "cameras must be 2 to 6, not 7"), ("--cameras 1", "cameras must be 2 to 6, not 1"),
     ("--train-ids 0", "train ids must be 2 to 1000"), ("--test-ids 1", "test ids must be 2 to 1000"),
     ("--tracklets 0", "tracklets must be 1 to 9"), ("--seed -1", "seed must be 0 to"),
     ("--frames 5 4", "frames must be LO HI"), ("--frames x 4", "invalid int value: 'x'"),
     ("--size 8 4", "size must be H from 32"), ("--workers -1", "workers must be 0 to 64"),
     ("--layout mers", "invalid choice: 'mers'"), ("--tar", "--tar belongs to --layout ilids, not mars"),
     ("--layout ilids --lists-in-info", "--lists-in-info belongs to --layout lsvid, not ilids"),
     ("--layout ilids --cameras 4", "cameras must be 2 with --layout ilids, not 4"),
     ("--layout ilids --tracklets 2", "tracklets must be 1 with --layout ilids, not 2"),
     ("--layout ilids --train-ids 4", "train ids + test ids must be even"),
     ("--layout ilids --train-ids 1000", "at most 750"),
     *((f"--layout {layout} --tracklets 1", f"tracklets must be 2 to 9 with --layout {layout}, not 1")
       for layout in ("folder", "manifest", "video", "market1501", "msmt17"))],
)  # fmt: skip
def test_bad_arguments_are_one_line_and_exit_code_2(tmp_path, capsys, words, part):
    assert main(["--root", str(tmp_path / "set"), *TINY_WORDS, *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line and not list(tmp_path.iterdir())


def test_an_unknown_layout_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="layout must be one of mars, lsvid, ilids, market1501, msmt17, folder"):
        write_set(tmp_path / "set", "mers", **TINY)


def test_lsvid_lists_name_every_frame_once(written):
    root = written("lsvid")
    assert {path.name for path in root.iterdir()} == {
        "list_sequence", "synthetic.json", "test", "tracklet_test", "tracklet_train", "tracklet_val", "val"
    }  # fmt: skip
    for split in ("train", "test", "val"):
        listed = lines(root / "list_sequence" / f"list_seq_{split}.txt")
        plan = walks(split)
        assert [pid for _, pid in listed] == [walk.pid for walk in plan]
        found = [sorted(glob(f"{root / prefix}*")) for prefix, _ in listed]
        on_disk = [str(path) for path in (root / f"tracklet_{split}").rglob("*") if path.is_file()]
        assert sorted(path for frames in found for path in frames) == sorted(on_disk)
        assert [len(frames) for frames in found] == [len(render(walk, PLAN)) for walk in plan]
        for frames, walk in zip(found, plan):
            fields = [re.fullmatch(r"[^_]+_(\d{6})_(\d{2})_[^_]+\.jpg", Path(path).name) for path in frames]
            assert {int(field[2]) for field in fields} == {walk.camera}
            assert np.diff([int(field[1]) for field in fields]).tolist() == [1] * (len(frames) - 1)
            with Image.open(frames[-1]) as image:
                assert apart(np.asarray(image), render(walk, PLAN)[-1]) < 5


def test_lsvid_junk_is_listed_and_people_are_disjoint(written):
    pids = {s: {pid for _, pid in lines(written("lsvid") / f"list_sequence/list_seq_{s}.txt")}
            for s in ("train", "test", "val")}  # fmt: skip
    assert pids == {"train": {1, 2, 3}, "test": {-1, 0, 4, 5, 6}, "val": {7, 8}}
    people = [walk.people for walk in walks("train", "test", "val") if walk.pid > 0]
    assert len(set(people)) == 8


@pytest.mark.parametrize("split", ["test", "val"])
def test_lsvid_queries_are_matlab_73(written, split):
    root = written("lsvid")
    path = root / split / "data" / f"info_{split}.mat"
    with pytest.raises(NotImplementedError, match="HDF"):
        loadmat(path)
    head = path.read_bytes()[:520]
    assert head[:19] == b"MATLAB 7.3 MAT-file" and head[124:128] == b"\x00\x02IM" and head[512:516] == b"\x89HDF"
    with h5py.File(path) as file:
        assert list(file) == ["query"] and file["query"].attrs["MATLAB_class"] == b"double"
        present = h5py.h5o.get_info(file["query"].id).hdr.mesg.present
        assert not present & (1 << 0x0E | 1 << 0x12)  # the two messages of HDF5 that hold a time of change
        assert file["query"].dtype == np.float64 and file["query"].shape[0] == 1
        query = file["query"][0, :]
    assert query.tolist() == [row for row, walk in enumerate(walks(split), 1) if walk.pid > 0 and walk.number == 1]
    assert len(query) == 2 * (3 if split == "test" else 2)


def test_lsvid_lists_in_info_are_the_same_files_elsewhere(written):
    beside, inside = contents(written("lsvid")), contents(written("lsvid in info"))
    moved = {re.sub(r"^(test|val)/data/", "info/data/", re.sub("^list_sequence/", "info/list_sequence/", name)): data
             for name, data in beside.items() if name != "synthetic.json"}  # fmt: skip
    assert {name: data for name, data in inside.items() if name != "synthetic.json"} == moved


def test_ilids_has_every_person_in_both_cameras(written):
    root = written("ilids")
    assert {path.name for path in root.iterdir()} == {"i-LIDS-VID", "train-test people splits", "synthetic.json"}
    sequences = root / "i-LIDS-VID" / "sequences"
    assert sorted(path.name for path in sequences.iterdir()) == ["cam1", "cam2"]
    people = [f"person{number:03d}" for number in (1, 2, 3, 5, 6, 7)]  # with gaps
    starts = set()
    for camera in (1, 2):
        assert sorted(path.name for path in (sequences / f"cam{camera}").iterdir()) == people
        for pid, person in enumerate(people, 1):
            names = sorted(path.name for path in (sequences / f"cam{camera}" / person).iterdir())
            frames = drawn_frames(pid, camera, 1)
            first = int(names[0][-9:-4])
            starts.add(first)
            assert names == [f"cam{camera}_{person}_{first + n:05d}.png" for n in range(len(frames))]
            with Image.open(sequences / f"cam{camera}" / person / names[-1]) as image:
                assert image.format == "PNG" and (np.asarray(image) == frames[-1]).all()
    assert min(starts) > 1 and len(starts) == 12


def test_ilids_splits_are_permutations_by_the_seed(written, tmp_path):
    name = "train-test people splits/train_test_splits_ilidsvid.mat"
    splits = loadmat(written("ilids") / name)["ls_set"]
    assert splits.shape == (10, 6)
    assert (np.sort(splits, axis=1) == np.arange(1, 7)).all()
    assert len({tuple(row) for row in splits}) > 1
    assert re.fullmatch(rb"MATLAB 5.0 MAT-file, walking figures *", (written("ilids") / name).read_bytes()[:116])
    write_set(tmp_path / "other", "ilids", workers=0, **{**TINY, "seed": 6})
    assert (loadmat(tmp_path / "other" / name)["ls_set"] != splits).any()


def test_ilids_tar_holds_the_same_tree(written):
    root = written("ilids tar")
    assert {path.name for path in root.iterdir()} == {"iLIDS-VID.tar", "synthetic.json"}
    tree = {name: data for name, data in contents(written("ilids")).items() if name != "synthetic.json"}
    with tarfile.open(root / "iLIDS-VID.tar") as archive:
        members = archive.getmembers()
        packed = {member.name: archive.extractfile(member).read() for member in members if member.isfile()}
    assert packed == tree
    assert [member.name for member in members if member.isdir()][:2] == ["i-LIDS-VID", "i-LIDS-VID/sequences"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert {(member.isdir(), member.mode) for member in members} == {(True, 0o755), (False, 0o644)}


def test_overwriting_replaces_a_set_but_no_file_that_is_not_of_it(tmp_path):
    plan = {"train_ids": 2, "test_ids": 2, "frames": (2, 2), "size": (32, 16), "workers": 0}
    for layout in LAYOUTS:
        root = tmp_path / layout
        plan |= {"cameras": 2, "tracklets": 1 if layout == "ilids" else 2}
        write_set(root, layout, **plan)
        assert not write_set(root, layout, overwrite=True, seed=1, **plan)["up_to_date"]
        (root / "notes.txt").write_text("mine")
        with pytest.raises(InputError, match="holds notes.txt, which is not of the set"):
            write_set(root, layout, overwrite=True, seed=2, **plan)
        assert (root / "notes.txt").read_text() == "mine"
    (tmp_path / "ilids" / "notes.txt").unlink()
    write_set(tmp_path / "ilids", "folder", overwrite=True, **plan)
    assert {path.name for path in (tmp_path / "ilids").iterdir()} == {"train", "query", "gallery", "synthetic.json"}
    assert {path.name for path in tmp_path.iterdir()} == set(LAYOUTS)
