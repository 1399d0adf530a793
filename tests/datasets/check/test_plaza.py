"""datasets.check on real footage in MARS layout: the original passes, planted faults are found and left out."""

import functools
import os
import re
import shutil
from pathlib import Path

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


def rename_person(root: Path, split: str, old: int, camera: str, new: int) -> None:
    """Files and lists alike call the person of the cameras (a pattern) by another number."""
    pattern = re.compile(f"{old:04d}(?=C{camera}T)")
    target = root / f"bbox_{split}" / f"{new:04d}"
    target.mkdir(exist_ok=True)
    for path in sorted((root / f"bbox_{split}" / f"{old:04d}").iterdir()):
        if pattern.match(path.name):
            path.rename(target / pattern.sub(target.name, path.name))
    if not any((root / f"bbox_{split}" / f"{old:04d}").iterdir()):
        (root / f"bbox_{split}" / f"{old:04d}").rmdir()
    names, table = root / "info" / f"{split}_name.txt", root / "info" / f"tracks_{split}_info.mat"
    lines, rows = names.read_text().split(), loadmat(table)[f"track_{split}_info"]
    rows[[pid == old and bool(re.fullmatch(camera, str(cam))) for _, _, pid, cam in rows], 2] = new
    names.unlink()
    names.write_bytes("".join(f"{pattern.sub(target.name, line)}\r\n" for line in lines).encode())
    table.unlink()
    savemat(table, {f"track_{split}_info": rows})


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
    ("renamed", "kind", "text", "queries"),
    [
        (("train", 9, r"\d", 10), "persons in train and in test", "person 10 is in train (", 17),
        # Person 2 of camera 1 becomes a person whom no other camera has seen.
        (("test", 2, "1", 12), "queries without a true match in the ranked gallery", "person 12, camera 1, ", 16),
    ],
)
def test_a_planted_fault_is_the_only_one_found_and_can_be_left_out(
    plaza, tmp_path, capsys, renamed, kind, text, queries
):
    rename_person(plaza, *renamed)
    fix = tmp_path / "fix.csv"
    rc, report = run(plaza, capsys, "--fix-list", str(fix))
    assert rc == 1 and f"\n{kind}: 1\n  {text}" in report and report.endswith("\n1 problem found (see above)\n")
    assert run(plaza, capsys, "DATASETS.EXCLUDE", str(fix))[0] == 0
    assert len(load_splits("MARS", str(plaza), exclude=str(fix)).query) == queries


def test_matches_are_sought_where_the_config_ranks(plaza, capsys):
    # Person 8 is left with queries of cameras 1 and 2 and a gallery item of camera 1; all of person 12 is of camera 4.
    rename_person(plaza, "test", 8, "4", 12)
    for keys, unmatched in (
        ([], ["12, camera 4"]),
        (["TEST.SAME_CAMERA_FILTER", "False"], []),
        (["TEST.GALLERY_INCLUDES_QUERY", "False"], ["8, camera 1", "12, camera 4"]),
    ):
        assert re.findall(r"  person (.*?), \d+ frames from", run(plaza, capsys, *keys)[1]) == unmatched
