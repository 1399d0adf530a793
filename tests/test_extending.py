"""docs/extending.md: its steps, carried out on a copy of the code, train and test a model with all four additions."""

import csv
import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT, TINY_OPTIONS

PAGE = ROOT / "docs" / "extending.md"
ROOMS = ("configs", "datasets", "loss", "model", "processor", "solver", "utils")
FILES_TOLD = {"data set": 2, "loss term": 3, "metric": 2, "temporal head": 2}


def sections() -> dict[str, str]:
    """Title of each addition -> its text."""
    parts = re.split(r"^## An? ([a-z ]+?): .*$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def new_files(text: str) -> dict[str, str]:
    return dict(re.findall(r"^`([\w/.]+)`, a new file:\n\n```python\n(.*?)^```", text, re.M | re.S))


def diffs(text: str) -> list[str]:
    return re.findall(r"^```diff\n(.*?)^```", text, re.M | re.S)


def test_each_addition_touches_the_files_that_its_title_tells():
    found = {
        name: len(new_files(text)) + sum(diff.count("\n+++ ") for diff in diffs(text))
        for name, text in sections().items()
    }
    assert found == FILES_TOLD


@pytest.fixture
def extended(tmp_path):
    """A copy of the code with every step of the page."""
    copy = tmp_path / "code"
    copy.mkdir()
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train-main.py", copy)
    for text in sections().values():
        for name, content in new_files(text).items():
            (copy / name).write_text(content)
        for diff in diffs(text):
            subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=copy, check=True)
    return copy


@pytest.mark.slow
def test_the_steps_of_the_page_train_and_test_a_model(extended, tiny_mars, tmp_path):
    data, out = tmp_path / "corridor", tmp_path / "run"
    frames = [path for path in sorted(tiny_mars.rglob("*.jpg")) if not path.name.startswith(("00-1", "0000"))]
    for path in frames:  # 0001C1T0001F001.jpg
        person, camera, tracklet = path.name[:4], path.name[5], path.name[7:11]
        train = "bbox_train" in path.parts
        split = "train" if train else "query" if tracklet == "0001" else "gallery"
        folder = data / split / f"{person}_c{camera}_t{tracklet}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    options = TINY_OPTIONS | {
        "DATASETS.NAMES": "corridor", "DATASETS.ROOT_DIR": str(data), "OUTPUT_DIR": str(out), "SOLVER.MAX_EPOCHS": "1",
        "SOLVER.STEPS": "[]", "MODEL.TEMPORAL": "MAX", "MODEL.LENGTH_LOSS_WEIGHT": "0.5",
    }  # fmt: skip
    command = [sys.executable, "train-main.py", *(part for pair in options.items() for part in pair)]
    done = subprocess.run(command, cwd=extended, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = csv.DictReader((out / "history.csv").open())
    assert float(row["loss_length"]) > 0 and 0 <= float(row["r_precision"]) <= 1
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["protocol"]["dataset"] == "Corridor" and metrics["r_precision"] <= metrics["rank1"] <= 1
    assert "R-Prec" in done.stdout and "length" in done.stdout
