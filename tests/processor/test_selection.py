"""How the best epoch is chosen: by the test set, by a validation part, or not at all."""

import pytest

from processor.evaluation import session
from processor.run import eval_main, train_main
from tests.conftest import load, metrics, one_error, read_csv


@pytest.fixture
def parts(monkeypatch):
    """The (data set, queries) of every test of a run, and scores that fall from epoch to epoch."""
    seen = []
    evaluate = session.evaluate

    def spy(*arguments):
        evaluation = evaluate(*arguments)
        seen.append((evaluation.protocol.dataset, evaluation.metrics["num_query"], evaluation.protocol.sampling))
        evaluation.metrics.update(mAP=1 / len(seen), rank1=1 / len(seen))
        return evaluation

    monkeypatch.setattr(session, "evaluate", spy)
    return seen


def test_by_the_test_set_the_first_and_highest_score_wins(tiny_argv, tmp_path, parts):
    assert train_main(tiny_argv()) == 0
    assert [part[0] for part in parts] == ["MARS"] * 5
    assert metrics(tmp_path / "run")["epoch"] == 1 and metrics(tmp_path / "run")["selected_by"] == "test"


def test_by_last_the_last_epoch_is_best_pth_whatever_the_scores(tiny_argv, tmp_path, parts):
    assert train_main(tiny_argv(SOLVER__SELECT_BY="last")) == 0
    assert load(tmp_path / "run" / "best.pth")["epoch"] == 3
    result = metrics(tmp_path / "run")
    assert result["epoch"] == result["last"]["epoch"] == 3 and result["mAP"] == result["last"]["mAP"]
    assert len(parts) == 4  # three epochs and one final test


def test_by_validation_the_test_set_is_looked_at_only_at_the_end(tiny_argv, tmp_path, parts):
    assert train_main(tiny_argv(SOLVER__SELECT_BY="val", DATASETS__VAL_FRACTION=0.34)) == 0
    # 2 of 6 identities, 3 cameras each: 6 validation queries; 4 test identities in 3 cameras: 12 test queries.
    assert parts == [("MARS validation", 6, "first")] * 3 + [("MARS", 12, "dense")] * 2
    result = metrics(tmp_path / "run")
    assert result["selected_by"] == "val" and result["epoch"] == 1 and result["num_query"] == 12
    memory = load(tmp_path / "run" / "clip_memory.pt")
    assert len(memory) == 4  # identities left to train on


def test_a_model_chosen_by_validation_is_evaluated_with_the_same_numbers(tiny_argv, tmp_path, caplog):
    assert train_main(tiny_argv(SOLVER__SELECT_BY="val")) == 0
    trained = metrics(tmp_path / "run")
    assert all(row["mAP"] for row in read_csv(tmp_path / "run" / "history.csv"))
    assert eval_main(tiny_argv(SOLVER__SELECT_BY="val")) == 0
    assert metrics(tmp_path / "run")["mAP"] == trained["mAP"]
    # A continued run keeps its selection.
    line = one_error(caplog, train_main, tiny_argv("--resume", SOLVER__SELECT_BY="test"))
    assert "SOLVER.SELECT_BY 'val', now it is 'test'" in line


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (0, "SOLVER.SELECT_BY val needs a DATASETS.VAL_FRACTION above 0"),
        (0.9, "5 of 6 training identities cannot be held out"),
    ],
)
def test_validation_needs_identities(fraction, message, tiny_argv, tmp_path, caplog):
    argv = tiny_argv(SOLVER__SELECT_BY="val", DATASETS__VAL_FRACTION=fraction)
    assert message in one_error(caplog, train_main, argv) and not (tmp_path / "run").exists()
