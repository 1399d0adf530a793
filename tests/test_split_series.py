"""DATASETS.SPLIT all: ten models, resumed wherever they were broken off, and one table."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from datasets.synthetic import write_set
from processor import trainer
from processor.run import eval_main, train_main
from processor.split_series import mean_and_spread
from tests.conftest import TINY_OPTIONS
from tests.test_end_to_end import assert_same_state

ROOT = Path(__file__).parent.parent
SCORES = ("mAP", "rank1", "rank5", "rank10", "rank20")


@pytest.fixture(scope="module")
def ilids(tmp_path_factory):
    root = tmp_path_factory.mktemp("ilids") / "set"
    write_set(root, "ilids", train_ids=4, test_ids=4, frames=(2, 3), size=(32, 16), workers=0)
    return root


def argv(root, out, *flags, **overrides):
    options = TINY_OPTIONS | {
        "DATASETS.NAMES": "iLIDS-VID", "DATASETS.ROOT_DIR": str(root), "DATASETS.SPLIT": "all", "OUTPUT_DIR": str(out),
        "SOLVER.MAX_EPOCHS": "2", "SOLVER.STEPS": "[1]",
    }  # fmt: skip
    options |= {key.replace("__", "."): str(value) for key, value in overrides.items()}
    return [*flags, *(part for pair in options.items() for part in pair)]


@pytest.fixture(scope="module")
def series(ilids, tmp_path_factory):
    """An unbroken run of ten splits."""
    out = tmp_path_factory.mktemp("series") / "run"
    assert train_main(argv(ilids, out)) == 0
    return out


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def table(out):
    return list(csv.DictReader((out / "splits.csv").open()))


def test_ten_rows_then_mean_and_spread(series):
    rows = table(series)
    assert [row["split"] for row in rows] == [*"0123456789", "mean", "spread"]
    singles = [metrics(series / f"split{split}") for split in range(10)]
    for name in SCORES:
        values = [single[name] for single in singles]
        assert [float(row[name]) for row in rows[:10]] == pytest.approx(values, abs=1e-6)
        assert metrics(series)[name] == pytest.approx(sum(values) / 10)
        assert metrics(series)["spread"][name] == pytest.approx(statistics.stdev(values))
        assert float(rows[10][name]) == pytest.approx(sum(values) / 10, abs=1e-6)
    assert len({json.dumps(single) for single in singles}) > 5  # the splits are other people, not one run ten times
    assert metrics(series)["num_query"] == 4 and not metrics(series)["protocol"]["gallery_includes_query"]
    last = [single["last"]["mAP"] for single in singles]
    assert metrics(series)["last"]["mAP"] == pytest.approx(sum(last) / 10)
    assert "10 splits, percent:" in (series / "train_log.txt").read_text()


def test_each_split_logs_into_its_own_folder(series):
    for split in (0, 9):
        log = (series / f"split{split}" / "train_log.txt").read_text()
        assert log.count("epoch 2/2: total") == 1 and "iLIDS-VID read in" in log
        assert f"DATASETS:\n  CACHE_DIR: {series}/cache" in (series / f"split{split}" / "config.yml").read_text()


def test_one_split_alone_equals_its_row(series, ilids, tmp_path):
    assert train_main(argv(ilids, tmp_path / "one", DATASETS__SPLIT=3)) == 0
    assert_same_state(tmp_path / "one" / "last.pth", series / "split3" / "last.pth")
    assert metrics(tmp_path / "one") == metrics(series / "split3")


@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_broken_off_in_split_1_and_started_again_ends_in_the_same_table(series, ilids, tmp_path, monkeypatch, flags):
    check = trainer.check_finite

    def interrupt(losses, epoch, step):
        check(losses, epoch, step)
        if epoch == 2 and (tmp_path / "run" / "split1").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "check_finite", interrupt)
    assert train_main(argv(ilids, tmp_path / "run")) == 130
    assert not (tmp_path / "run" / "split2").exists() and not (tmp_path / "run" / "splits.csv").exists()
    assert torch.load(tmp_path / "run" / "split1" / "last.pth", weights_only=True)["epoch"] == 1
    finished = (tmp_path / "run" / "split0" / "last.pth").stat().st_mtime_ns
    monkeypatch.setattr(trainer, "check_finite", check)
    assert train_main(argv(ilids, tmp_path / "run", *flags)) == 0
    assert (tmp_path / "run" / "split0" / "last.pth").stat().st_mtime_ns == finished  # skipped
    assert table(tmp_path / "run") == table(series)
    assert_same_state(tmp_path / "run" / "split1" / "last.pth", series / "split1" / "last.pth")


def test_killed_in_split_1_and_started_again_ends_in_the_same_table(series, ilids, tmp_path):
    command = [sys.executable, str(ROOT / "train-main.py"), *argv(ilids, tmp_path / "run")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    begun, deadline = tmp_path / "run" / "split1" / "clip_memory.pt", time.monotonic() + 120
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert begun.exists() and not (tmp_path / "run" / "splits.csv").exists()
    assert train_main(argv(ilids, tmp_path / "run")) == 0
    assert table(tmp_path / "run") == table(series)


def test_a_finished_series_is_only_tabulated_again(series, ilids, tmp_path, caplog):
    before = {path: path.stat().st_mtime_ns for path in series.glob("split*/*")}
    with caplog.at_level("INFO"):
        assert train_main(argv(ilids, series)) == 0
    assert sum("is finished in" in message for message in caplog.messages) == 10
    assert {path: path.stat().st_mtime_ns for path in series.glob("split*/*")} == before


def test_another_recipe_is_refused_and_overwrite_starts_anew(series, ilids, tmp_path, caplog):
    assert train_main(argv(ilids, series, SOLVER__BASE_LR=1e-4)) == 2
    assert "split0/config.yml was trained with SOLVER.BASE_LR 0.001, now it is 0.0001" in caplog.text
    old = tmp_path / "run" / "split7"
    old.mkdir(parents=True)
    (old / "metrics.json").write_text('{"last": {"epoch": 99}}')
    (old / "last.pth").write_text("stale")
    assert train_main(argv(ilids, tmp_path / "run", "--overwrite", DATASETS__ROOT_DIR="nowhere")) == 2
    assert (old / "last.pth").read_text() == "stale"  # a typo costs nothing
    assert train_main(argv(ilids, tmp_path / "run", "--overwrite")) == 0
    assert table(tmp_path / "run") == table(series)


def test_weights_that_lie_in_the_folder_of_a_split_are_not_overwritten(ilids, tmp_path, caplog):
    folder = tmp_path / "run" / "split0"
    folder.mkdir(parents=True)
    (folder / "best.pth").write_text("downloaded")
    assert train_main(argv(ilids, tmp_path / "run")) == 2
    assert "split0 holds a run (best.pth)" in caplog.text and (folder / "best.pth").read_text() == "downloaded"


def test_evaluation_of_ten_models_gives_the_table_of_training(series, ilids, tmp_path):
    pattern = series / "split{split}" / "best.pth"
    assert eval_main(argv(ilids, tmp_path / "eval", TEST__WEIGHT=pattern)) == 0
    assert [{k: v for k, v in row.items() if k != "epoch"} for row in table(tmp_path / "eval")] == [
        {k: v for k, v in row.items() if k != "epoch"} for row in table(series)
    ]
    assert (tmp_path / "eval" / "split4" / "test_log.txt").exists() and "last" not in metrics(tmp_path / "eval")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"DATASETS__SPLIT": "10"}, "DATASETS.SPLIT must be one of 0, 1, 2"),
        ({"DATASETS__SPLIT": "-1"}, "DATASETS.SPLIT must be one of"),
        ({"DATASETS__NAMES": "MARS"}, "DATASETS.SPLIT all: MARS has one split"),
        ({"TEST__WEIGHT": "one.pth"}, "one.pth is one file, DATASETS.SPLIT all needs ten"),
        ({}, "split0/best.pth does not exist"),
        ({"TEST__DATASETS": "('MARS:x')"}, "TEST.DATASETS tests one model"),
    ],
)
def test_faults(keys, said, ilids, tmp_path, caplog):
    assert eval_main(argv(ilids, tmp_path / "run", **keys)) == 2
    assert said in caplog.text and not (tmp_path / "run").exists()


def test_mean_and_spread_by_hand():
    results = [dict.fromkeys(SCORES, value) for value in (0.2, 0.4, 0.9)]
    mean, spread = mean_and_spread(results)
    assert mean["mAP"] == pytest.approx(0.5) and spread["rank1"] == pytest.approx((0.26 / 2) ** 0.5)
    assert mean_and_spread(results[:1])[1]["mAP"] == 0
