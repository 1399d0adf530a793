"""A data folder that is moved while a training reads it: one line on how to go on, which works."""

import shutil
import subprocess
import sys
import time

import pytest

from processor.run import train_main
from tests.conftest import ROOT, read_csv, tiny_options


@pytest.mark.slow
def test_a_training_whose_folder_is_moved_says_how_to_go_on_and_goes_on(tiny_mars, tmp_path):
    data, moved, out = tmp_path / "mars", tmp_path / "moved", tmp_path / "run"
    shutil.copytree(tiny_mars, data)
    keys = tiny_options(OUTPUT_DIR=out, SOLVER__MAX_EPOCHS=2000, SOLVER__EVAL_PERIOD=2000)
    command = [sys.executable, str(ROOT / "train-main.py"), *keys, "DATASETS.ROOT_DIR", str(data)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "last.pth").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    data.rename(moved)
    _, errors = process.communicate(timeout=60)
    lines = [line for line in errors.splitlines() if "error" in line]
    assert process.returncode == 2 and "Traceback" not in errors and len(lines) == 1, errors
    assert f"frame {data}/bbox_train/" in lines[0]
    assert lines[0].endswith(" does not exist; if the data were moved, mend DATASETS.ROOT_DIR; a training goes on "
                             "with --resume")  # fmt: skip
    epochs = len(read_csv(out / "history.csv"))
    keys = tiny_options("--resume", OUTPUT_DIR=out, SOLVER__MAX_EPOCHS=epochs + 1, SOLVER__STEPS="[2]")
    assert train_main([*keys, "DATASETS.ROOT_DIR", str(moved)]) == 0
    assert len(read_csv(out / "history.csv")) == epochs + 1
