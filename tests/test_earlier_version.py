"""A run folder that an earlier version of this code wrote loads, is tested, goes on and gets the scores that it lacks.

tests/data/earlier_run was written by the version before the rooms had inner walls: one epoch of a tiny model on the set
of the `tiny_mars` fixture. EPOCH_2 is what that version itself made of it with --resume.
"""

import logging
import shutil

import pytest

from configs import load_cfg
from configs.command import run_command
from processor.run import eval_main, train_main
from processor.series import is_finished, run_or_continue
from tests.conftest import SCORES, metrics, read_csv
from tests.reference import DATA

EPOCH_2 = {"loss_total": 5.317187, "loss_id": 5.225128, "loss_triplet": 1.290593, "loss_v2m": 1.878177}


@pytest.fixture
def run(tmp_path):
    folder = shutil.copytree(DATA / "earlier_run", tmp_path / "run")
    shutil.copy(folder / "last.pth", folder / "best.pth")
    return folder


def options(run, data, **overrides) -> list[str]:
    values = {"DATASETS.ROOT_DIR": data, "OUTPUT_DIR": run} | overrides
    return ["--config_file", str(run / "config.yml"), *(str(part) for pair in values.items() for part in pair)]


def test_it_goes_on_as_its_own_version_did(run, tiny_mars):
    before = read_csv(run / "history.csv")
    assert train_main(["--resume", *options(run, tiny_mars, **{"SOLVER.MAX_EPOCHS": 2})]) == 0
    rows = read_csv(run / "history.csv")
    assert rows[0] == before[0] | {"mINP": ""} and float(rows[1]["mINP"]) > 0 and len(rows) == 2
    # Eight steps with a learning rate of 1e-3 carry rounding on: a thousandth, where another recipe is a tenth off.
    assert {name: float(rows[1][name]) for name in EPOCH_2} == pytest.approx(EPOCH_2, rel=1e-3)


def test_its_weights_have_the_scores_that_they_had(run, tiny_mars, tmp_path):
    then = metrics(run)
    weight = {"TEST.WEIGHT": run / "best.pth"}
    assert eval_main(options(run, tiny_mars, **weight | {"OUTPUT_DIR": tmp_path / "test"})) == 0
    now = metrics(tmp_path / "test")
    assert now["protocol"] == then["protocol"] | {"precision": "float32"}  # which it did not write down
    assert now["num_gallery"] == then["num_gallery"]
    assert now["mAP"] == pytest.approx(then["mAP"], abs=0.02)  # two near ties of a barely trained model may swap


def test_it_is_not_overwritten(run, tiny_mars, caplog):
    assert train_main(options(run, tiny_mars)) == 2
    assert "holds a run (last.pth, best.pth, history.csv)" in caplog.text


def test_in_a_series_one_test_of_its_weights_adds_the_scores_that_it_lacks(run, tiny_mars, caplog):
    argv, weights, then = options(run, tiny_mars), (run / "last.pth").read_bytes(), metrics(run)
    cfg = load_cfg(argv[1], argv[2:])
    assert "mINP" not in then and not is_finished(cfg)
    with caplog.at_level(logging.INFO):
        assert run_command(lambda: run_or_continue(cfg, "a row")) == 0
    now = metrics(run)
    for scores, earlier in ((now, then), (now["last"], then["last"])):
        assert set(SCORES) < set(scores) and scores["mAP"] == pytest.approx(earlier["mAP"], abs=0.02)
        assert list(scores["ci95"]) == ["mAP", "mINP", "rank1"]
    assert is_finished(cfg) and not is_finished(load_cfg(argv[1], [*argv[2:], "SOLVER.MAX_EPOCHS", "2"]))
    assert (run / "last.pth").read_bytes() == weights and "epoch 1/1" not in caplog.text  # nothing was trained
    assert [row["mINP"] for row in read_csv(run / "history.csv")] == [""]
    with caplog.at_level(logging.INFO):
        assert run_command(lambda: run_or_continue(cfg, "a row")) == 0
    assert caplog.messages[-1] == f"a row is finished in {run}" and metrics(run) == now
