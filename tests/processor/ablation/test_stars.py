"""Stars in the tables of an ablation: which rows are compared, and when the difference is real."""

import json
import logging

import numpy as np
import pytest

from processor.ablation import command
from processor.ablation.command import main
from processor.ablation.marks import find_marks
from processor.ablation.tables import RowResult, write_tables
from processor.protocol import EvalProtocol
from tests.conftest import ROOT, metrics, read_csv, tiny_options
from utils.files import save_csv
from utils.metrics import SCORES

ROWS = ROOT / "configs" / "ablation"


def write_run(folder, shift: float, seed: int, dataset: str = "toy", queries: int = 60, ranks: bool = True):
    """metrics.json and ranks.csv of a test in which some queries are easy and `shift` makes all easier."""
    folder.mkdir(parents=True)
    ease = np.random.default_rng(0).normal(0, 1, queries)
    noise = np.random.default_rng(seed).normal(0, 0.5, queries)
    ap = (1 / (1 + np.exp(-(ease + shift + noise)))).round(6)
    table = [[f"{i}.jpg", i, "gate", f"{value:.6f}", f"{value:.6f}", 1 + (value < 0.5)] for i, value in enumerate(ap)]
    if ranks:
        save_csv(folder / "ranks.csv", ["query", "pid", "camera", "AP", "INP", "first_match"], table)
    scores = dict.fromkeys(SCORES, 1.0) | {
        "mAP": float(ap.mean()),
        "mINP": float(ap.mean()),
        "rank1": float((ap >= 0.5).mean()),
    }
    counts = {"num_query": queries, "num_gallery": 2 * queries}
    protocol = EvalProtocol(dataset, "dense", gallery_includes_query=True).describe()
    (folder / "metrics.json").write_text(json.dumps(scores | counts | {"protocol": protocol}))
    return folder


def result(name, folders) -> RowResult:
    return RowResult(name, None, True, [metrics(folder) for folder in folders], folders)


def test_a_star_stands_where_the_difference_to_the_first_row_of_the_table_is_real(tmp_path):
    rows = {"table2_row2": 0.0, "table2_row3": 0.02, "table2_row4": 1.0, "table3_tmc": 1.0, "table3_none": 0.0}
    folders = {
        name: [write_run(tmp_path / name / f"seed{seed}", shift, 10 * place + seed) for seed in (1, 2, 3)]
        for place, (name, shift) in enumerate(rows.items())
    }
    results = [result(name, found) for name, found in folders.items()]
    write_tables(tmp_path, results)
    records = {record["config"]: record for record in read_csv(tmp_path / "tables.csv")}
    assert {name: r["star"] for name, r in records.items()} == {
        "table2_row2": "", "table2_row3": "", "table2_row4": "*", "table3_none": "", "table3_tmc": "*",
    }  # fmt: skip
    assert records["table2_row4"]["compared with"] == "2: CLIP-M" and records["table3_tmc"]["compared with"] == "none"
    assert records["table2_row2"]["p mAP"] == "" and float(records["table2_row3"]["p mAP"]) > 0.05
    text = (tmp_path / "tables.md").read_text()
    assert "| 4: CLIP-M, TMD * | 3 |" in text and "| 3: CLIP-M, SSP | 3 |" in text and text.count("* mAP differs") == 1
    # Nothing else in the table has changed.
    (tmp_path / "without").mkdir()
    write_tables(tmp_path / "without", [RowResult(r.name, None, True, r.runs) for r in results])
    plain = {record["config"]: record for record in read_csv(tmp_path / "without" / "tables.csv")}
    new = ("compared with", "p mAP", "decides", "star")
    assert {n: {k: v for k, v in r.items() if k not in new} for n, r in records.items()} == {
        n: {k: v for k, v in r.items() if k not in new} for n, r in plain.items()
    }
    assert "* mAP differs" not in (tmp_path / "without" / "tables.md").read_text()
    assert {record["decides"] for record in records.values()} == {"", "p_seeds"}


def test_holm_counts_the_rows_of_the_table(tmp_path):
    first = write_run(tmp_path / "first" / "seed1", 0.0, 1)
    close = write_run(tmp_path / "close" / "seed1", 0.15, 2)
    (_, alone), _ = find_marks([("t", "toy", "first", [first]), ("t", "toy", "close", [close])])
    others = [("t", "toy", f"other {n}", [write_run(tmp_path / f"{n}" / "seed1", 0.0, 10 + n)]) for n in range(9)]
    marks, _ = find_marks([("t", "toy", "first", [first]), ("t", "toy", "close", [close]), *others])
    assert 0 < alone.p < 0.05 and alone.holds and alone.reference == "first"
    assert marks[1].p == pytest.approx(10 * alone.p) and not marks[1].holds


def test_rows_of_another_data_set_are_compared_among_themselves(tmp_path):
    rows = [
        ("Own rows", dataset, name, [write_run(tmp_path / name / "seed1", shift, 3, dataset)])
        for name, dataset, shift in (("a", "A", 0), ("b", "B", 0), ("c", "A", 1), ("d", "B", 1))
    ]
    marks, reasons = find_marks(rows)
    assert [mark and mark.reference for mark in marks] == [None, None, "a", "b"] and reasons == []


def test_runs_without_ranks_have_no_star_and_that_is_said_once(tmp_path):
    results = [
        result(f"table2_row{n}", [write_run(tmp_path / f"row{n}" / "seed1", n, n, ranks=n == 2)]) for n in (2, 3, 4)
    ]
    write_tables(tmp_path, results)
    assert {record["star"] for record in read_csv(tmp_path / "tables.csv")} == {""}
    (line,) = [line for line in (tmp_path / "tables.md").read_text().splitlines() if line.startswith("No star")]
    assert f"{tmp_path}/row3 holds runs without" in line and line.endswith("tested once more (and 1 more)")


def test_a_row_of_another_test_is_not_compared_and_the_others_are(tmp_path):
    folders = [
        write_run(tmp_path / name / "seed1", shift, 5, queries=n)
        for name, shift, n in (("a", 0, 60), ("b", 1, 50), ("c", 1, 60))
    ]
    marks, reasons = find_marks([("t", "toy", folder.parent.name, [folder]) for folder in folders])
    assert marks[:2] == [None, None] and marks[2].holds
    assert len(reasons) == 1 and "are different tests: num_query 50 and 60" in reasons[0]
    assert find_marks([("t", "toy", "x", [])]) == ([None], [])
    (folders[2] / "splits.csv").write_text("")
    marks, (*_, reason) = find_marks([("t", "toy", folder.parent.name, [folder]) for folder in folders[::2]])
    assert marks == [None, None]
    assert reason == "c is tested on several splits, which share people; such rows get no star"


def test_runs_save_their_queries_and_finished_ones_without_are_left_alone(tiny_mars, tmp_path, caplog, monkeypatch):
    out, rows = tmp_path / "out", [str(ROWS / f"table2_row{n}.yml") for n in (2, 4)]
    keys = {"SOLVER__MAX_EPOCHS": 1, "SOLVER__STEPS": "[1]", "SOLVER__EVAL_PERIOD": 1}
    argv = tiny_options(DATASETS__ROOT_DIR=tiny_mars, OUTPUT_DIR=out, **keys)
    with monkeypatch.context() as earlier:  # a version that did not save them
        earlier.setattr(command, "is_finished", lambda cfg: True)
        assert main([*rows, *argv]) == 0
    runs = [out / f"table2_row{n}" / "seed1234" for n in (2, 4)]
    assert not any((run / "ranks.csv").exists() for run in runs)
    before = [(run / "metrics.json").stat().st_mtime_ns for run in runs]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert main([*rows, *argv]) == 0
    assert [(run / "metrics.json").stat().st_mtime_ns for run in runs] == before
    assert sum(line.startswith("No star where rows cannot be compared") for line in caplog.messages) == 1
    scores = [metrics(run)["mAP"] for run in runs]
    assert main([*rows, *argv, "TEST.SAVE_RANKS", "True"]) == 0
    assert all((run / "ranks.csv").exists() for run in runs) and [metrics(run)["mAP"] for run in runs] == scores
    compared = read_csv(out / "tables.csv")[1]
    assert compared["compared with"] == "2: CLIP-M" and 0 < float(compared["p mAP"]) <= 1
    assert main([rows[0], *argv, "--seeds", "7"]) == 0  # new runs save them unasked
    assert (out / "table2_row2" / "seed7" / "ranks.csv").exists()


def test_rows_that_were_tested_in_other_ways_are_not_starred(tmp_path):
    folders = [write_run(tmp_path / name / "seed1", shift, 5) for name, shift in (("a", 0), ("b", 1))]
    path = folders[1] / "metrics.json"
    content = json.loads(path.read_text())
    content["protocol"]["re_ranking"] = {"k1": 20, "k2": 6, "lambda": 0.3}
    path.write_text(json.dumps(content))
    marks, reasons = find_marks([("t", "toy", folder.parent.name, [folder]) for folder in folders])
    assert marks == [None, None] and reasons == ["b and a were tested in other ways (re_ranking)"]
