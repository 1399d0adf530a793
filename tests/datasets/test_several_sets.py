"""One weight file on several data sets in one run, the keys of the protocol, and the camera table."""

import pytest
import torch

from datasets.synthetic.command import write_mars
from processor.run import eval_main, train_main
from tests.conftest import SCORES, load, metrics, one_error, read_csv


@pytest.fixture(scope="module")
def other_mars(tmp_path_factory):
    root = tmp_path_factory.mktemp("other") / "set"
    write_mars(root, train_ids=3, test_ids=3, cameras=2, tracklets=1, frames=(2, 3), size=(32, 16), seed=9, workers=0)
    return root


@pytest.fixture
def weight(trained_run):
    return trained_run / "best.pth"


def test_one_table_for_all_sets_equals_single_runs(weight, tiny_argv, tiny_mars, other_mars, tmp_path, caplog):
    entries = f"('MARS:{tiny_mars}', 'mars:{other_mars}')"
    with caplog.at_level("INFO"):
        assert eval_main(tiny_argv(TEST__WEIGHT=weight, TEST__DATASETS=entries, TEST__SAVE_RANKS=True)) == 0
    together = metrics(tmp_path / "run")
    assert list(together["datasets"]) == ["1-MARS", "2-MARS"] and together["weight"] == str(weight)
    assert "1-MARS" in caplog.text and caplog.text.count("TEST.GALLERY_INCLUDES_QUERY True") >= 2
    for name, root in (("1-MARS", tiny_mars), ("2-MARS", other_mars)):
        assert (tmp_path / "run" / name / "ranks.csv").exists()
        single = tmp_path / f"single-{name}"
        assert eval_main(tiny_argv(TEST__WEIGHT=weight, DATASETS__ROOT_DIR=root, OUTPUT_DIR=single)) == 0
        assert metrics(single) == metrics(tmp_path / "run" / name)
        assert {key: metrics(single)[key] for key in SCORES} == {key: together["datasets"][name][key] for key in SCORES}


def test_training_says_that_it_tests_only_its_own_set(tiny_argv, tiny_mars, caplog):
    keys = {"SOLVER__MAX_EPOCHS": 1, "TEST__DATASETS": f"MARS:{tiny_mars}"}
    assert train_main(tiny_argv(**keys)) == 0
    assert "TEST.DATASETS belongs to eval-main.py; this run tests only MARS" in caplog.messages


def test_every_list_is_read_before_the_first_test(weight, tiny_argv, tiny_mars, tmp_path, caplog):
    for entry, message in (
        (f"('MARS:{tiny_mars}', 'MARS:{tmp_path}/nowhere')", "nowhere is not a folder"),
        (f"('MARS:{tiny_mars}', 'MARZ:{tmp_path}')", "'MARZ' is not known"),
        ("('MARS')", "TEST.DATASETS needs entries like 'MARS:folder', found 'MARS'"),
        ("[1, 2]", "TEST.DATASETS must be a list of texts"),
    ):
        argv = tiny_argv(TEST__WEIGHT=weight, TEST__DATASETS=entry)
        assert message in one_error(caplog, eval_main, argv) and not (tmp_path / "run").exists()


def test_trapezoid_camera_pairs_and_filter_reach_the_numbers(weight, tiny_argv, tmp_path, caplog):
    assert eval_main(tiny_argv(TEST__WEIGHT=weight, OUTPUT_DIR=tmp_path / "step")) == 0
    asked = {"TEST__AP": "trapezoid", "TEST__CAMERA_PAIRS": True}
    with caplog.at_level("INFO"):
        assert eval_main(tiny_argv(TEST__WEIGHT=weight, OUTPUT_DIR=tmp_path / "trapezoid", **asked)) == 0
    step, trapezoid = metrics(tmp_path / "step"), metrics(tmp_path / "trapezoid")
    assert trapezoid["mAP"] < step["mAP"] and trapezoid["rank1"] == step["rank1"]
    assert (step["protocol"]["ap"], trapezoid["protocol"]["ap"]) == ("step", "trapezoid")
    assert "TEST.AP trapezoid" in caplog.text
    rows = read_csv(tmp_path / "trapezoid" / "camera_pairs.csv")
    pairs = [(row["query_camera"], row["gallery_camera"]) for row in rows]
    assert pairs == [(a, b) for a in "123456" for b in "123456"]
    drawn = [row for row in rows if row["query_camera"] < "4" and row["gallery_camera"] < "4"]
    assert {row["num_query"] for row in drawn} == {"4"} and sum(bool(row["mAP"]) for row in rows) == len(drawn) == 9
    argv = tiny_argv(TEST__WEIGHT=weight, TEST__SAME_CAMERA_FILTER="off", OUTPUT_DIR=tmp_path / "unfiltered")
    assert eval_main(argv) == 0
    unfiltered = metrics(tmp_path / "unfiltered")
    assert unfiltered["protocol"]["same_camera_filter"] is False and unfiltered["mAP"] != step["mAP"]


def test_unseen_cameras_are_said_and_change_the_features(weight, tiny_argv, tmp_path, caplog):
    state = load(weight)
    assert state["cameras"] == {"dataset": "MARS", "names": ("1", "2", "3", "4", "5", "6"), "trained": (0, 1, 2)}
    state["cameras"]["dataset"] = "LS-VID"  # as if it had been trained there
    torch.save(state, tmp_path / "elsewhere.pth")
    found = {}
    for unseen in ("off", "mean"):
        caplog.clear()
        out = tmp_path / unseen
        argv = tiny_argv(TEST__WEIGHT=tmp_path / "elsewhere.pth", MODEL__SIE_UNSEEN=unseen, OUTPUT_DIR=out)
        with caplog.at_level("INFO"):
            assert eval_main([*argv, "TEST.SAVE_RANKS", "True"]) == 0
        found[unseen] = (out / "ranks.csv").read_text()
        mean = "3 of 3 cameras were not trained on and get the mean of the 3 trained ones"
        assert ("camera embedding off" if unseen == "off" else mean) in caplog.text
        assert metrics(out)["protocol"]["camera_embedding"] is (unseen == "mean")
    assert found["off"] != found["mean"]
