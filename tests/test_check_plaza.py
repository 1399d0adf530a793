"""datasets.check on real footage in MARS layout: the original passes, each planted fault is found and left out."""

import functools
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from datasets import load_splits
from datasets.check import command as check
from datasets.frames import probe
from tests.conftest import SHARED

PLAZA = SHARED / "data" / "plaza"

pytestmark = pytest.mark.skipif(not PLAZA.is_dir(), reason="the footage is absent")


open_once = functools.cache(probe.open_frame)


@pytest.fixture(autouse=True)
def footage_is_opened_once(monkeypatch):
    """A link to the footage stands for the same file in every copy; all other files are opened each time."""
    open_frame, footage = probe.open_frame, PLAZA.resolve()

    def open_linked(path):
        target = Path(path).resolve()
        return open_once(str(target)) if target.is_relative_to(footage) and target.is_file() else open_frame(path)

    monkeypatch.setattr(probe, "open_frame", open_linked)


@pytest.fixture
def plaza(tmp_path) -> Path:
    """A copy that a test may break; its files are links until they are replaced."""
    return shutil.copytree(PLAZA, tmp_path / "plaza", copy_function=os.symlink)


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def names(root: Path, split: str) -> list[str]:
    return (root / "info" / f"{split}_name.txt").read_text().split()


def table(root: Path, split: str) -> np.ndarray:
    return loadmat(root / "info" / f"tracks_{split}_info.mat")[f"track_{split}_info"]


def write_lists(root: Path, split: str, frame_names: list[str], rows: np.ndarray) -> None:
    replace(root / "info" / f"{split}_name.txt", "".join(f"{name}\r\n" for name in frame_names).encode())
    path = root / "info" / f"tracks_{split}_info.mat"
    path.unlink()
    savemat(path, {f"track_{split}_info": rows})


def rename_person(root: Path, split: str, old: int, camera: str, new: int) -> None:
    """Files and lists alike call the person of the cameras (a pattern) by another number."""
    pattern = re.compile(f"{old:04d}(?=C{camera}T)")
    for path in sorted((root / f"bbox_{split}" / f"{old:04d}").iterdir()):
        if pattern.match(path.name):
            (root / f"bbox_{split}" / f"{new:04d}").mkdir(exist_ok=True)
            path.rename(root / f"bbox_{split}" / f"{new:04d}" / pattern.sub(f"{new:04d}", path.name))
    if not any((root / f"bbox_{split}" / f"{old:04d}").iterdir()):
        (root / f"bbox_{split}" / f"{old:04d}").rmdir()
    rows = table(root, split)
    rows[[pid == old and bool(re.fullmatch(camera, str(cam))) for _, _, pid, cam in rows], 2] = new
    write_lists(root, split, [pattern.sub(f"{new:04d}", name) for name in names(root, split)], rows)


def train_with_a_test_person(root: Path) -> None:
    rename_person(root, "train", 9, r"\d", 10)


def take_the_match_away(root: Path) -> None:
    # Person 2 of camera 1 becomes a person whom no other camera has seen.
    rename_person(root, "test", 2, "1", 12)


def mix_cameras(root: Path) -> None:
    rows = table(root, "train")
    first = next(row for row in range(len(rows) - 1) if rows[row, 3] != rows[row + 1, 3])
    rows[first, 1] += 1
    rows[first + 1, 0] += 1
    write_lists(root, "train", names(root, "train"), rows)


def name_a_frame_of_no_tracklet(root: Path) -> None:
    write_lists(root, "train", [*names(root, "train"), "0009C1T0099F001.jpg"], table(root, "train"))


def run(root: Path, capsys, *flags: str) -> tuple[int, str]:
    rc = check.main([*flags, "DATASETS.ROOT_DIR", str(root), "DATALOADER.NUM_WORKERS", "0"])
    return rc, capsys.readouterr().out


def test_the_original_is_in_order(capsys):
    rc, report = run(PLAZA, capsys)
    assert rc == 0 and report.endswith("\nno problem found\n")
    # README of the set: 53 tracklets of 759 frames; 54 of 763 and 10 distractors of 167, of which 17 are queries
    counts = [[int(text) for text in line.split()[2:4]] for line in report.splitlines()[2:5]]
    assert counts[0] == [53, 759] and [sum(pair) for pair in zip(*counts[1:])] == [54 + 10, 763 + 167]
    assert "\n1,689 frames opened in " in report


@pytest.mark.parametrize(
    ("plant", "kind", "text", "solved"),
    [
        (train_with_a_test_person, "persons in train and in test", "person 10 is in train (", True),
        (take_the_match_away, "queries without a true match in the ranked gallery", "person 12, camera 1, ", True),
        (mix_cameras, "faults of the lists", "the tracklet mixes people or cameras", True),
        (name_a_frame_of_no_tracklet, "faults of the lists", "has tracklets of 759 frames together, ", False),
    ],
)
def test_each_planted_fault_is_found_and_alone(plaza, tmp_path, capsys, plant: Callable, kind, text, solved):
    plant(plaza)
    fix = tmp_path / "fix.csv"
    rc, report = run(plaza, capsys, "--fix-list", str(fix))
    assert rc == 1 and f"\n{kind}: 1\n  " in report and text in report.split(f"{kind}: 1\n")[1].splitlines()[0]
    assert report.endswith("\n1 problem found (see above)\n")
    assert ("1 problem cannot be left out and must be mended:" in report) is not solved
    rc, report = run(plaza, capsys, "DATASETS.EXCLUDE", str(fix))
    assert rc == int(not solved)
    assert len(load_splits("MARS", str(plaza), exclude=str(fix)).query) == 17 - (plant is take_the_match_away)


def test_matches_are_sought_where_the_config_ranks(plaza, capsys):
    # Person 8 is left with queries of cameras 1 and 2 and a gallery item of camera 1; all of person 12 is of camera 4.
    rename_person(plaza, "test", 8, "4", 12)
    for keys, unmatched in (
        ([], ["12, camera 4"]),
        (["TEST.SAME_CAMERA_FILTER", "False"], []),
        (["TEST.GALLERY_INCLUDES_QUERY", "False"], ["8, camera 1", "12, camera 4"]),
    ):
        assert re.findall(r"  person (.*?), \d+ frames from", run(plaza, capsys, *keys)[1]) == unmatched
