"""DATASETS.SPLIT all: ten models, resumed wherever they were broken off, and one table."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

import pytest

from datasets.synthetic.command import write_set
from processor.run import eval_main, train_main
from processor.training import session
from tests.conftest import ROOT, SCORES, contents, load, metrics, read_csv, tiny_options
from tests.test_end_to_end import assert_same_state


@pytest.fixture(scope="module")
def ilids(tmp_path_factory):
    root = tmp_path_factory.mktemp("ilids") / "set"
    write_set(root, "ilids", train_ids=4, test_ids=4, frames=(2, 3), size=(32, 16), workers=0)
    return root


def argv(root, out, *flags, **overrides):
    keys = {
        "DATASETS__NAMES": "iLIDS-VID", "DATASETS__ROOT_DIR": root, "DATASETS__SPLIT": "all", "OUTPUT_DIR": out,
        "SOLVER__MAX_EPOCHS": 2, "SOLVER__STEPS": "[1]",
    }  # fmt: skip
    return tiny_options(*flags, **keys | overrides)


@pytest.fixture(scope="module")
def series(ilids, tmp_path_factory):
    """An unbroken run of ten splits."""
    out = tmp_path_factory.mktemp("series") / "run"
    assert train_main(argv(ilids, out)) == 0
    return out


def take_finished_splits(series, out, splits):
    """So that less is left to train."""
    for split in splits:
        shutil.copytree(series / f"split{split}", out / f"split{split}")


@pytest.fixture
def copied(series, tmp_path):
    """A copy of the series that a test may change."""
    return shutil.copytree(series, tmp_path / "run")


def test_ten_rows_then_mean_and_spread(series):
    rows = read_csv(series / "splits.csv")
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
        assert log.count("epoch 2/2: id") == 1 and "iLIDS-VID read in" in log
        assert f"  CACHE_DIR: {series}/cache" in (series / f"split{split}" / "config.yml").read_text()


def test_a_single_split_equals_its_row_and_shares_no_folder_with_a_series(series, ilids, tmp_path, caplog):
    assert train_main(argv(ilids, tmp_path / "one", DATASETS__SPLIT=3)) == 0
    assert_same_state(tmp_path / "one" / "last.pth", series / "split3" / "last.pth")
    assert metrics(tmp_path / "one") == metrics(series / "split3")
    assert train_main(argv(ilids, tmp_path / "one")) == 2
    assert "holds a run of one split (last.pth, best.pth" in caplog.text
    before = contents(series)
    assert train_main(argv(ilids, series, DATASETS__SPLIT=3)) == 2
    assert "holds a run (splits.csv, split0/last.pth" in caplog.text and contents(series) == before
    assert train_main(argv(ilids, tmp_path / "empty", "--resume")) == 2
    assert "holds no split of a series, so there is nothing to resume" in caplog.text


@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_broken_off_in_split_1_and_started_again_ends_in_the_same_table(
    series, ilids, tmp_path, monkeypatch, interrupt_when, flags
):
    run = tmp_path / "run"
    interrupt_when(lambda epoch, step: epoch == 2 and (run / "split1").exists())
    assert train_main(argv(ilids, run)) == 130
    assert not (run / "split2").exists() and not (run / "splits.csv").exists()
    assert load(run / "split1" / "last.pth")["epoch"] == 1
    finished = (run / "split0" / "last.pth").stat().st_mtime_ns
    monkeypatch.undo()
    take_finished_splits(series, run, range(3, 10))
    assert train_main(argv(ilids, run, *flags)) == 0
    assert (run / "split0" / "last.pth").stat().st_mtime_ns == finished  # skipped
    assert read_csv(run / "splits.csv") == read_csv(series / "splits.csv")
    assert_same_state(run / "split1" / "last.pth", series / "split1" / "last.pth")


@pytest.mark.slow
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
    take_finished_splits(series, tmp_path / "run", range(3, 10))
    assert train_main(argv(ilids, tmp_path / "run")) == 0
    assert read_csv(tmp_path / "run" / "splits.csv") == read_csv(series / "splits.csv")


def test_a_finished_series_is_only_tabulated_again(series, ilids, tmp_path, caplog):
    before = {path: path.stat().st_mtime_ns for path in series.glob("split*/*")}
    with caplog.at_level("INFO"):
        assert train_main(argv(ilids, series)) == 0
    assert sum("is finished in" in message for message in caplog.messages) == 10
    assert {path: path.stat().st_mtime_ns for path in series.glob("split*/*")} == before


def test_a_series_that_lacks_a_score_is_tested_again_in_one_go(series, copied, ilids):
    for path in (copied, *copied.glob("split?")):
        earlier = {name: value for name, value in metrics(path).items() if name != "mINP"}
        (path / "metrics.json").write_text(json.dumps(earlier))
    assert train_main(argv(ilids, copied)) == 0
    assert read_csv(copied / "splits.csv") == read_csv(series / "splits.csv") and metrics(copied) == metrics(series)
    for path in series.glob("split?/*.pth"):  # nothing was trained
        assert (copied / path.relative_to(series)).read_bytes() == path.read_bytes()


def test_another_recipe_and_fewer_epochs_are_refused(series, ilids, caplog):
    assert train_main(argv(ilids, series, SOLVER__BASE_LR=1e-4)) == 2
    assert "split0/config.yml was trained with SOLVER.BASE_LR 0.001, now it is 0.0001" in caplog.text
    assert train_main(argv(ilids, series, SOLVER__MAX_EPOCHS=1)) == 2
    assert "has 2 epochs already, SOLVER.MAX_EPOCHS 1 is less" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [0, 2])
def test_broken_off_in_a_new_test_of_finished_splits_the_table_mixes_no_protocols(
    series, copied, ilids, tmp_path, monkeypatch, stop_at
):
    report, tested = session.report, []

    def interrupt(*arguments):
        tested.append(arguments)
        if len(tested) == stop_at + 1:
            raise KeyboardInterrupt
        return report(*arguments)

    monkeypatch.setattr(session, "report", interrupt)
    assert train_main(argv(ilids, copied, TEST__AP="trapezoid")) == 130
    monkeypatch.undo()
    unbroken = shutil.copytree(series, tmp_path / "unbroken")
    for out in (copied, unbroken):
        assert train_main(argv(ilids, out, TEST__AP="trapezoid")) == 0
        assert {metrics(out / f"split{n}")["protocol"]["ap"] for n in range(10)} == {"trapezoid"}
    ours, theirs = metrics(copied), metrics(unbroken)
    assert ours["last"] == theirs["last"] and ours["protocol"] == theirs["protocol"]
    assert ours["protocol"]["split"] == "all" and ours["last"] != metrics(series)["last"]


def test_overwriting_loses_nothing_to_a_fault(series, copied, ilids):
    for keys in (
        {"SOLVER__IMS_PER_BATCH": 64}, {"SOLVER__SELECT_BY": "val", "DATASETS__VAL_FRACTION": 0.9},
        {"MODEL__NAME": "x"}, {"DATASETS__ROOT_DIR": "nowhere"},
    ):  # fmt: skip
        assert train_main(argv(ilids, copied, "--overwrite", **keys)) == 2, keys
        assert contents(copied) == contents(series), keys


def test_overwriting_removes_all_splits_and_the_table_at_once(series, copied, ilids, monkeypatch, interrupt_when):
    (copied / "split0" / "last.pth").write_text("stale")
    interrupt_when(lambda epoch, step: True)
    assert train_main(argv(ilids, copied, "--overwrite")) == 130
    left = {path.as_posix() for path in contents(copied)}
    assert {name for name in left if not name.startswith(("split0/", "cache/"))} == set()
    monkeypatch.undo()
    for split in range(1, 10):
        (copied / f"split{split}").rmdir()
    take_finished_splits(series, copied, range(1, 10))
    assert train_main(argv(ilids, copied)) == 0
    assert read_csv(copied / "splits.csv") == read_csv(series / "splits.csv")


def test_ctrl_c_while_a_split_is_reported_ends_the_series(ilids, tmp_path, monkeypatch):
    report = session.report

    def press(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        report(*arguments)

    monkeypatch.setattr(session, "report", press)
    assert train_main(argv(ilids, tmp_path / "run")) == 130
    assert (tmp_path / "run" / "split0" / "metrics.json").exists() and not (tmp_path / "run" / "split1").exists()


def test_a_broken_file_in_a_split_has_its_test_repeated(series, copied, ilids):
    broken = [
        ("config.yml", b""), ("config.yml", b"MODEL: ["), ("metrics.json", b'{"last": {"epoch": 2}}'),
        ("metrics.json", b"{"), ("metrics.json", b"[]"), ("metrics.json", None), ("config.yml", None),
    ]  # fmt: skip
    for split, (name, content) in enumerate(broken, 2):
        path = copied / f"split{split}" / name
        path.unlink() if content is None else path.write_bytes(content)
    assert train_main(argv(ilids, copied)) == 0
    assert read_csv(copied / "splits.csv") == read_csv(series / "splits.csv")


def test_a_model_is_not_tested_on_people_that_it_was_trained_on(series, ilids, tmp_path, caplog):
    weight = series / "split3" / "best.pth"
    for keys, message in (
        ({"DATASETS__SPLIT": 0}, "with 0 it would be tested on people of its training: set DATASETS.SPLIT 3"),
        ({"DATASETS__SPLIT": 3, "DATASETS__TRAIN_HALF": "first"}, "was trained with DATASETS.TRAIN_HALF last"),
    ):
        assert eval_main(argv(ilids, tmp_path / "run", TEST__WEIGHT=weight, **keys)) == 2
        assert message in caplog.text and not (tmp_path / "run").exists()
    pattern = str(weight).replace("split3", "split{split}")
    assert eval_main(argv(ilids, tmp_path / "run", TEST__WEIGHT=pattern, DATASETS__SPLIT=3)) == 0
    assert metrics(tmp_path / "run")["protocol"]["split"] == "3"


def test_weights_that_lie_in_the_folder_of_a_split_are_not_overwritten(ilids, tmp_path, caplog):
    folder = tmp_path / "run" / "split0"
    folder.mkdir(parents=True)
    (folder / "best.pth").write_text("downloaded")
    assert train_main(argv(ilids, tmp_path / "run")) == 2
    assert "split0 holds a run (best.pth)" in caplog.text and (folder / "best.pth").read_text() == "downloaded"


def test_evaluation_of_ten_models_gives_the_table_of_training(series, ilids, tmp_path):
    pattern, out = series / "split{split}" / "best.pth", tmp_path / "eval"
    assert eval_main(argv(ilids, out, TEST__WEIGHT=pattern)) == 0
    evaluated, trained = ([row | {"epoch": ""} for row in read_csv(f / "splits.csv")] for f in (out, series))
    assert evaluated == trained
    assert (out / "split4" / "test_log.txt").exists() and "last" not in metrics(out)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"DATASETS__SPLIT": "10"}, "DATASETS.SPLIT must be one of 0, 1, 2"),
        ({"DATASETS__SPLIT": "-1"}, "DATASETS.SPLIT must be one of"),
        ({"DATASETS__NAMES": "MARS"}, "DATASETS.SPLIT all: MARS has one split"),
        ({"TEST__WEIGHT": "one.pth"}, "one.pth is one file, DATASETS.SPLIT all needs ten"),
        ({}, "split0/best.pth does not exist"),
        ({"TEST__DATASETS": "('MARS:x')"}, "TEST.DATASETS tests one model"),
    ],
)
def test_faults(keys, message, ilids, tmp_path, caplog):
    assert eval_main(argv(ilids, tmp_path / "run", **keys)) == 2
    assert message in caplog.text and not (tmp_path / "run").exists()
