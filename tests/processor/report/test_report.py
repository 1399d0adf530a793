"""The command: a page equal to ranks.csv from features, weights or files alone, and one line for each bad input."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from processor.evaluation import session
from processor.report.command import main
from processor.run import eval_main, train_main
from tests.conftest import contents, metrics, one_error, read_csv
from tests.processor.report.pages import content, rows, rows_of_csv, strips
from utils.errors import InputError


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy of the finished run that a test may change."""
    return shutil.copytree(trained_run, tmp_path / "copy" / trained_run.name)


def page_of(run, *opts):
    assert main([str(run), *map(str, opts)]) == 0
    return run / "report" / "index.html"


@pytest.mark.slow
def test_the_page_has_the_lists_of_ranks_csv_whatever_it_is_made_from(run, tmp_path, caplog):
    from_features = page_of(run)
    assert caplog.messages[-1] == f"wrote {from_features}"
    assert rows(from_features) == rows_of_csv(read_csv(run / "ranks.csv"))
    first = from_features.read_bytes()
    os.utime(run / "metrics.json", (0, 0))  # as a copy has another time
    assert page_of(run).read_bytes() == first
    pictures = strips(from_features)
    assert len(pictures) == len(content(from_features)["tracklets"]) and {p.height for p in pictures} == {160}
    (run / "features.npz").unlink()
    assert page_of(run).read_bytes() == first
    assert main([str(run), "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").read_bytes() == first
    text = first.decode()
    assert "test part, first sampling (TEST.EVAL_SAMPLING)" in text
    for said in (f"{100 * metrics(run)['mAP']:.2f}", "MODEL.ENCODER.WIDTH", "paper", "epoch"):
        assert said in text
    assert "http:" not in text.replace("http://www.w3.org", "") and "https:" not in text


def test_right_and_wrong_follow_the_persons(run):
    data = content(page_of(run))
    person = [t[1] for t in data["tracklets"]]
    marks = [(mark, person[number] == person[query[0]]) for query in data["queries"] for number, _, mark in query[5]]
    assert all(bool(mark) == same for mark, same in marks) and len({mark for mark, _ in marks}) == 2
    assert all(query[3] for query in data["queries"])
    found = [next((n for n, near in enumerate(query[5], 1) if near[2]), None) for query in data["queries"]]
    assert all(place == query[3] for place, query in zip(found, data["queries"]) if place)


def test_features_of_another_test_are_not_used(run, caplog):
    with np.load(run / "features.npz") as saved:
        arrays = dict(saved)
    np.savez(run / "features.npz", **arrays | {"features": arrays["features"][::-1]})
    page = page_of(run)
    assert rows(page) == rows_of_csv(read_csv(run / "ranks.csv"))
    assert "features.npz gives" in page.read_text() and "the tracklets are embedded anew" in caplog.text
    np.savez(run / "features.npz", **arrays | {"pids": arrays["pids"] + 1})
    assert "holds other tracklets than the data" in page_of(run).read_text()


@pytest.mark.parametrize("opts", [(), ("DATASETS.ROOT_DIR", "gone")])
def test_scores_that_are_printed_otherwise_than_in_metrics_json_are_said(run, opts):
    whole = metrics(run)
    (run / "metrics.json").write_text(json.dumps(whole | {"rank5": whole["rank5"] - 2e-4}))
    now, then = (f"{100 * value:.2f} %" for value in (whole["rank5"], whole["rank5"] - 2e-4))
    text = page_of(run, *opts).read_text()
    assert now != then and f"features.npz gives Rank-5 {now}, where metrics.json says {then}: on another" in text
    (run / "metrics.json").write_text(json.dumps(whole))
    assert "where metrics.json says" not in page_of(run, *opts).read_text()


def test_a_page_that_cannot_be_made_is_a_warning_after_the_scores(run, tiny_argv, tmp_path, monkeypatch, caplog):
    def refuse(path, page):
        raise InputError("no room")

    monkeypatch.setattr(session, "write_page", refuse)
    with caplog.at_level("INFO"):
        assert eval_main(tiny_argv(TEST__REPORT=True, TEST__WEIGHT=run / "best.pth")) == 0
    out = tmp_path / "run"
    again = f"python -m processor.report {out} makes it again"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"no {out / 'report' / 'index.html'}: no room; {again}" in warnings
    assert any("mINP" in message for message in caplog.messages) and (out / "metrics.json").exists()


def test_features_are_enough_for_all_but_the_attention(run, caplog):
    expected = rows(page_of(run))
    for change in (lambda weight: weight.write_bytes(weight.read_bytes()[:1000]), lambda weight: weight.unlink()):
        change(run / "best.pth")
        page = page_of(run)
        assert rows(page) == expected and strips(page) and 'id="attention"' not in page.read_text()
        (note,) = [line for line in page.read_text().splitlines() if "It is not shown where the model looks" in line]
        assert str(run / "best.pth") in note and len(caplog.messages) > 1


def test_eval_main_makes_the_page_that_the_command_makes_and_a_later_test_removes_it(run, tiny_argv, tmp_path, caplog):
    keys = {"TEST__WEIGHT": run / "best.pth", "TEST__SAVE_RANKS": True, "TEST__RE_RANKING": True}
    keys |= {"TEST__RE_RANKING_K1": 4, "TEST__RE_RANKING_K2": 2, "TEST__GALLERY_INCLUDES_QUERY": False}
    with caplog.at_level("INFO"):
        assert eval_main(tiny_argv(TEST__REPORT=True, **keys)) == 0
    out = tmp_path / "run"
    page = out / "report" / "index.html"
    assert caplog.messages[-1] == f"wrote {page}"
    first = page.read_bytes()
    assert rows(page) == rows_of_csv(read_csv(out / "ranks.csv"))
    assert b"k-reciprocal re-ranking: k1 4, k2 2, lambda 0.3." in first
    assert page_of(out).read_bytes() == first  # RE_RANKING is known from metrics.json
    assert eval_main(tiny_argv(**keys)) == 0
    assert not page.parent.exists()


@pytest.mark.slow
def test_training_makes_the_page_and_overwrite_discards_it(tiny_argv, tmp_path):
    keys = {"SOLVER__MAX_EPOCHS": 1, "DATASETS__CACHE_DIR": tmp_path / "cache"}
    assert train_main(tiny_argv(TEST__REPORT=True, **keys)) == 0
    page = tmp_path / "run" / "report" / "index.html"
    first = page.read_bytes()
    assert b"Losses" in first and page_of(tmp_path / "run").read_bytes() == first
    assert train_main(tiny_argv("--resume", **keys)) == 0  # tests anew, and asks for no page
    assert not page.parent.exists()
    page_of(tmp_path / "run")
    assert train_main(tiny_argv("--overwrite", **keys)) == 0
    assert not page.parent.exists()


def test_each_set_of_several_has_its_page(run, tiny_argv, tiny_mars, tmp_path, caplog):
    entries = f"('MARS:{tiny_mars}', 'MARS:{tiny_mars}')"
    keys = {"TEST__WEIGHT": run / "best.pth", "TEST__DATASETS": entries, "DATASETS__ROOT_DIR": "nowhere"}
    assert eval_main(tiny_argv(**keys)) == 0
    out = tmp_path / "run"
    line = one_error(caplog, main, [str(out)])
    assert f"name one of them ({out / '1-MARS'}, {out / '2-MARS'})" in line
    assert rows(page_of(out / "2-MARS")) == rows(page_of(run))


def test_a_series_of_splits_names_its_runs(run, tmp_path, caplog):
    series = tmp_path / "series"
    shutil.copytree(run, series / "split3")
    (series / "metrics.json").write_text(json.dumps(metrics(run) | {"splits": [metrics(run)]}))
    assert f"name one of them ({series / 'split3'})" in one_error(caplog, main, [str(series)])


def test_moved_data_leave_a_page_without_pictures(run, tmp_path, caplog):
    gone = tmp_path / "gone"
    page = page_of(run, "DATASETS.ROOT_DIR", gone)
    said = [message for message in caplog.messages if str(gone) in message]
    assert len(said) == 1 and page.read_text().count(str(gone)) == 1
    assert strips(page) == [] and "tracklet 1" in page.read_text()
    table = read_csv(run / "ranks.csv")
    assert [row[1:5] for row in rows(page)] == [row[1:5] for row in rows_of_csv(table)]
    assert b"<b>t-SNE</b>" in page.read_bytes()
    assert content(page)["cameras"] == sorted({row["camera"] for row in table}) == ["1", "2", "3"]
    assert {frames for _, _, _, frames, _ in content(page)["tracklets"]} == {0}
    (run / "ranks.csv").rename(run / "kept")
    unnamed = page_of(run, "DATASETS.ROOT_DIR", gone)
    assert content(unnamed)["cameras"] == [""] and "Camera pairs" not in unnamed.read_text()
    (run / "kept").rename(run / "ranks.csv")
    (run / "features.npz").unlink()
    page = page_of(run, "DATASETS.ROOT_DIR", gone)
    assert rows(page) == rows_of_csv(table) and b"<b>t-SNE</b>" not in page.read_bytes()
    for name in ("ranks.csv", "history.csv", "best.pth"):
        (run / name).unlink()
    assert f"{100 * metrics(run)['mAP']:.2f}" in page_of(run, "DATASETS.ROOT_DIR", gone).read_text()
    (run / "metrics.json").unlink()
    assert "holds no metrics.json" in one_error(caplog, main, [str(run), "DATASETS.ROOT_DIR", str(gone)])


def test_a_run_that_was_not_tested_to_its_end_is_tested_for_the_page(run):
    expected = rows(page_of(run))
    (run / "metrics.json").unlink()
    page = page_of(run)
    assert rows(page) == expected and "This run has no metrics.json" in page.read_text()


def test_other_ranks_write_nothing(tmp_path):
    cfg = SimpleNamespace(TEST=SimpleNamespace(
        SAVE_FEATURES=False, SAVE_RANKS=False, CAMERA_PAIRS=False, CONTACT_SHEET=0, REPORT=True
    ))  # fmt: skip
    other = SimpleNamespace(ranks=SimpleNamespace(is_main=False))
    splits = SimpleNamespace(bad_frames=None)
    session.report(SimpleNamespace(cfg=cfg, splits=splits, runtime=other, out=tmp_path), None, {}, None, {})
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "broken", "message"),
    [
        ("metrics.json", b"{", "metrics.json cannot be read"),
        ("metrics.json", b"[]", "metrics.json holds no scores of a test"),
        ("metrics.json", b'{"mAP": 1}', "metrics.json holds no scores of a test"),
        ("history.csv", b"epoch,lr\n1,x\n", "history.csv, line 2: every cell must be a number"),
        ("history.csv", b"a\n1\n", "history.csv has no column epoch"),
        ("history.csv", b"\xff\xfe", "history.csv cannot be read"),
        ("history.csv", b"epoch,lr\n1,1,1\n", "history.csv, line 2: more cells than columns"),
        ("features.npz", b"PK\x03\x04", "features.npz is broken"),
        ("features.npz", b"", "features.npz is broken"),
        ("config.yml", b"MODEL: [", "config.yml, line"),
        ("config.yml", b"MODEL:\n  NAMES: 3\n", "unknown key MODEL.NAMES"),
    ],
)
def test_broken_files_are_refused_in_one_line(run, caplog, name, broken, message):
    (run / name).write_bytes(broken)
    assert message in one_error(caplog, main, [str(run)]) and not (run / "report").exists()


def test_broken_protocol_or_features_that_do_not_fit(run, caplog):
    whole = metrics(run)
    (run / "metrics.json").write_text(json.dumps(whole | {"protocol": {"ap": 1}}))
    assert "holds no protocol of a test" in one_error(caplog, main, [str(run)])
    (run / "metrics.json").write_text(json.dumps(whole | {"config": 3}))
    assert "config holds no keys" in one_error(caplog, main, [str(run)])
    (run / "metrics.json").write_text(json.dumps(whole))
    np.savez(run / "features.npz", features=np.zeros((3, 2)), pids=[1], camids=[0], is_query=[True])
    assert "its tables do not fit" in one_error(caplog, main, [str(run)])


RANKS = "query,pid,camera,AP,INP,first_match," + ",".join(
    f"top{place}{part}" for place in range(1, 11) for part in ("", "_pid", "_camera", "_distance")
)
PAIRS = "query_camera,gallery_camera,num_query,mAP,rank1\n1,2,"


@pytest.mark.parametrize(
    ("name", "broken", "message"),
    [
        ("history.csv", "epoch,lr\n,1\n", "history.csv, line 2: the epoch must be a whole number"),
        ("history.csv", "epoch,lr\nnan,1\n", "history.csv, line 2: the epoch must be a whole number"),
        ("camera_pairs.csv", f"{PAIRS}1.5,0.5,0.5\n", "camera_pairs.csv, line 2: num_query must be a whole number"),
        ("camera_pairs.csv", f"{PAIRS}3,,\n", "with mAP and rank1 where it is above 0"),
        ("ranks.csv", RANKS.replace("top1_pid,", "") + "\n", "ranks.csv has no column top1_pid"),
        ("ranks.csv", f"{RANKS}\nq,1,1,-1,0,1\n", "ranks.csv, line 2: AP and INP must be fractions"),
        ("ranks.csv", f"{RANKS}\nq,1,1,0.5,0.5,1.5\n", "first match a whole number"),
        ("metrics.json", {"num_query": "17"}, "metrics.json: num_query must be a whole number"),
        ("metrics.json", {"ci95": 5}, "metrics.json: ci95 must hold two fractions for each score"),
        ("metrics.json", {"ci95": {"mAP": ["a", 1]}}, "metrics.json: ci95 must hold two fractions for each score"),
        ("metrics.json", {"untrained": {"mAP": "x"}}, "metrics.json: untrained must hold scores"),
        ("metrics.json", {"protocol": {"ap": "foo"}}, "metrics.json holds no protocol of a test (ap foo)"),
        ("metrics.json", {"protocol": {"dataset": 3}}, "metrics.json holds no protocol of a test (dataset 3)"),
    ],
)
def test_broken_cells_are_refused_in_one_line_where_the_files_are_all_there_is(run, caplog, name, broken, message):
    (run / "features.npz").unlink()
    if isinstance(broken, dict):
        whole = metrics(run)
        broken = json.dumps(whole | {k: whole[k] | v if k == "protocol" else v for k, v in broken.items()})
    (run / name).write_text(broken)
    assert message in one_error(caplog, main, [str(run), "DATASETS.ROOT_DIR", "gone"])
    assert not (run / "report").exists()


def test_what_is_no_run_is_refused_in_one_line(run, tmp_path, caplog):
    (run / "features.npz").unlink()
    (run / "best.pth").unlink()
    assert "test again with eval-main.py" in one_error(caplog, main, [str(run)])
    (tmp_path / "empty").mkdir()
    for argv, message in (
        ([], "name RUN"),
        (["nowhere"], "nowhere does not exist"),
        ([str(run / "metrics.json")], "is a file; name the folder"),
        ([str(tmp_path / "empty")], "holds no run; name"),
        ([str(run.parent)], f"holds no run itself, but {run}"),
        ([str(run), "--out", str(tmp_path)], "is a folder; name a file"),
        ([str(run), "--out", str(run / "metrics.json/a.html")], f"--out {run}/metrics.json cannot be written"),
        ([str(run), "TEST.RE_RANKING", "True"], "TEST.RE_RANKING: the page shows a test as it was"),
        ([str(run), "DATASETS.ROT_DIR", "x"], "did you mean DATASETS.ROOT_DIR?"),
        ([str(run), "DATASETS.ROOT_DIR"], "has no partner"),
        ([str(run), "--ouut", "x"], "unrecognized arguments: --ouut"),
    ):
        assert message in one_error(caplog, main, argv)
    assert not (run / "report").exists()
