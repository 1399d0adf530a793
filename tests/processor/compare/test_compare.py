"""python -m processor.compare: rows, seeds, matching of queries, tables and files, and what is refused."""

import csv
import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from datasets.tracklet import ReIDSplits, Tracklet
from processor.compare import load_row
from processor.compare.command import main
from processor.compare.sheet import config_of
from processor.compare.statistics import permutation_p, person_intervals
from processor.evaluation import rank_tracklets
from processor.evaluation.reports import write_reports
from processor.protocol import EvalProtocol
from processor.run import eval_main
from tests.conftest import ROOT, contents, metrics, one_error, read_csv, tiny_options

PEOPLE, CAMERAS, WIDTH = 30, 3, 16
PROTOCOL = EvalProtocol("toy", "dense", gallery_includes_query=False)


def tracklets() -> tuple[Tracklet, ...]:
    """A query in camera 0 and two gallery tracklets of each person; the last query's person is in no other camera."""
    query = [Tracklet((f"q/{pid}.jpg",), pid, 0) for pid in range(PEOPLE + 1)]
    gallery = [Tracklet((f"g/{pid}_{cam}.jpg",), pid, cam) for pid in range(PEOPLE) for cam in range(1, CAMERAS)]
    return (*query, *gallery)


def features(signal: float, seed: int) -> np.ndarray:
    """Features (n, F): `signal` times what a person always looks like, and noise."""
    rng = np.random.default_rng(99)
    looks = rng.normal(size=(PEOPLE + 1, WIDTH))
    noise = np.random.default_rng(seed).normal(size=(len(tracklets()), WIDTH))
    return (signal * looks[[t.pid for t in tracklets()]] + noise).astype(np.float32)


def write_run(folder, signal, seed=0, ranks=True, saved_features=False, order=None, extra=None, **protocol):
    """A tested run as eval-main.py leaves it; `order` of the queries as a permutation."""
    folder.mkdir(parents=True)
    found, values = tracklets(), features(signal, seed)
    if order is not None:
        rows = [*order, *range(PEOPLE + 1, len(found))]
        found, values = tuple(found[row] for row in rows), values[rows]
    evaluation = rank_tracklets(values, found, PEOPLE + 1, replace(PROTOCOL, **protocol))
    splits = ReIDSplits((), evaluation.query, found[PEOPLE + 1 :], 0, CAMERAS, False, cameras=("gate", "hall", "lawn"))
    write_reports(folder, evaluation, extra or {}, splits, saved_features, ranks, False, 0)
    return folder


def records(out, **wanted) -> list[dict[str, str]]:
    """Rows of compare.csv with these cells."""
    return [r for r in read_csv(out / "compare.csv") if all(r[name] == value for name, value in wanted.items())]


def difference(out, row, score="mAP") -> dict[str, str]:
    (record,) = [r for r in records(out, row=row, score=score) if r["against"]]
    return record


def test_untrained_against_trained_is_a_clear_difference(tmp_path, capsys):
    old, new = write_run(tmp_path / "untrained", 0.0), write_run(tmp_path / "trained", 2.0)
    assert main([str(old), str(new), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "toy, 31 queries (1 without a true match are left out) against 60 gallery tracklets" in shown
    assert "the queries show 30 persons, which is few" in shown
    assert "trained - untrained     mAP" in shown and shown.count("  *\n") == 3
    for score, name in (("mAP", "mAP"), ("mINP", "mINP"), ("Rank-1", "rank1")):
        record = difference(tmp_path / "out", "trained", name)
        expected = metrics(new)[name] - metrics(old)[name]
        assert float(record["value"]) == pytest.approx(expected, abs=2e-6) and record["against"] == "untrained"
        assert 0 < float(record["low"]) < expected < float(record["high"]) and record["star"] == "*"
        assert max(float(record[p]) for p in ("p_bootstrap", "p_permutation", "p_holm")) < 0.001
        assert record["p_seeds"] == record["seeds_low"] == "" and score in shown
        assert record["decides"] == "p_permutation"
    (own,) = records(tmp_path / "out", row="trained", against="", score="mAP")
    interval = [float(own[end]) for end in ("low", "high")]
    assert interval == pytest.approx(metrics(new)["ci95"]["mAP"], abs=1e-6)  # with one query each
    (rank5,) = records(tmp_path / "out", row="trained", score="rank5")
    assert float(rank5["value"]) == pytest.approx(metrics(new)["rank5"], abs=1e-6) and rank5["low"] == ""


def test_the_queries_that_changed_most_come_first(tmp_path):
    runs = [write_run(tmp_path / name, signal) for name, signal in (("a", 0.5), ("b", 1.0), ("c", 1.5))]
    assert main([*map(str, runs), "--out", str(tmp_path / "out")]) == 0
    rows = read_csv(tmp_path / "out" / "queries.csv")
    assert len(rows) == PEOPLE and {row["camera"] for row in rows} == {"gate"}
    by_query = {row["query"]: row for row in read_csv(runs[2] / "ranks.csv")}
    first = {row["query"]: row for row in read_csv(runs[0] / "ranks.csv")}
    for row in rows:
        assert row["AP c"] == by_query[row["query"]]["AP"] and row["AP a"] == first[row["query"]]["AP"]
        assert float(row["change c"]) == pytest.approx(float(row["AP c"]) - float(row["AP a"]), abs=1.1e-6)
    changes = [max(abs(float(row["change b"])), abs(float(row["change c"]))) for row in rows]
    assert changes == sorted(changes, reverse=True) and changes[0] > changes[-1]


def test_equal_runs_have_no_difference_whatever_the_order_and_the_file(tmp_path, capsys):
    first = write_run(tmp_path / "ranks", 1.0)
    mixed = write_run(tmp_path / "mixed", 1.0, order=np.random.default_rng(0).permutation(PEOPLE + 1))
    bare = write_run(tmp_path / "features", 1.0, ranks=False, saved_features=True)
    for runs in ((first, mixed, bare), (bare, first, mixed)):
        out = tmp_path / f"out{runs[0].name}"
        assert main([*map(str, runs), "--all-pairs", "--out", str(out)]) == 0
        compared = [r for r in records(out) if r["against"]]
        assert len(compared) == 3 * 3
        for record in compared:
            assert [float(record[name]) for name in ("value", "low", "high")] == [0, 0, 0]
            assert [float(record[name]) for name in ("p_bootstrap", "p_permutation", "p_holm")] == [1, 1, 1]
            assert record["star"] == ""
        assert all(row["query"].startswith("q/") for row in read_csv(out / "queries.csv"))
    assert "*\n" not in capsys.readouterr().out


def test_a_row_of_several_seeds_says_what_another_training_would_change(tmp_path, capsys):
    for name, signal in (("base", 0.8), ("better", 1.6)):
        for seed in (1, 2, 10):
            write_run(tmp_path / name / f"seed{seed}", signal, seed)
    named = [f"same={tmp_path}/base/seed1,{tmp_path}/base/seed2,{tmp_path}/base/seed10", f"one={tmp_path}/base/seed1"]
    folders = [str(tmp_path / "base"), str(tmp_path / "better")]
    assert main([*folders, *named, "--out", str(tmp_path / "out")]) == 0
    better, same, one = (difference(tmp_path / "out", name) for name in ("better", "same", "one"))
    scores = {n: [metrics(tmp_path / n / f"seed{s}")["mAP"] for s in (1, 2, 10)] for n in ("base", "better")}
    assert float(better["value"]) == pytest.approx(np.mean(scores["better"]) - np.mean(scores["base"]), abs=2e-6)
    assert better["seeds"] == "3" and better["star"] == "*" and float(better["p_seeds"]) < float(better["p_holm"])
    assert float(better["seeds_low"]) < float(better["low"]) < float(better["high"]) < float(better["seeds_high"])
    assert float(same["value"]) == 0 and float(same["p_seeds"]) == 1
    assert [found["decides"] for found in (better, same, one)] == ["p_seeds", "p_seeds", "p_permutation"]
    assert one["p_seeds"] == "" and one["seeds"] == "1"  # its trainings cannot be told from chance
    (own,) = records(tmp_path / "out", row="better", against="", score="mAP")
    assert float(own["spread"]) == pytest.approx(np.std(scores["better"], ddof=1), abs=2e-6)
    shown = capsys.readouterr().out
    assert "over seeds and persons" in shown and "corrected for 3 comparisons" in shown
    assert "a row of one seed: its intervals" in shown and " ± " in shown


def test_other_choices_of_the_test_are_what_one_compares(tmp_path, capsys):
    plain = write_run(tmp_path / "plain", 1.0)
    others = {"re": {"re_ranking": (6, 3, 0.3)}, "half": {"precision": "bfloat16"}, "raw": {"feat_norm": False}}
    for name, choice in others.items():
        write_run(tmp_path / name, 1.0, **choice)
    bare = write_run(tmp_path / "bare", 1.0, ranks=False, saved_features=True, re_ranking=(6, 3, 0.3))
    assert (
        main([str(plain), *(str(tmp_path / name) for name in others), str(bare), "--out", str(tmp_path / "out")]) == 0
    )
    shown = capsys.readouterr().out
    re_ranked = "k1 6 k2 3 lambda 0.3"
    assert f"re_ranking differs: plain off; re {re_ranked}; half off; raw off; bare {re_ranked}" in shown
    assert "precision differs: plain float32; re float32; half bfloat16" in shown and "feat_norm differs" in shown
    assert difference(tmp_path / "out", "re")["value"] == difference(tmp_path / "out", "bare")["value"] != "0.000000"


def test_the_persons_are_the_units_with_all_their_queries(tmp_path, capsys):
    """The same scores, once of 30 persons and once of 5 with six queries each."""
    runs = [write_run(tmp_path / name, signal) for name, signal in (("a", 1.0), ("b", 2.0))]
    assert main([*map(str, runs), "--out", str(tmp_path / "own")]) == 0
    for run in runs:
        cells(run, lambda t: [row.__setitem__(1, f"p{place % 5}") for place, row in enumerate(t[1:])])
    assert main([*map(str, runs), "--out", str(tmp_path / "shared")]) == 0
    assert "the queries show 5 persons" in (shown := capsys.readouterr().out) and "can never fall below 0.05" in shown
    own, shared = difference(tmp_path / "own", "b"), difference(tmp_path / "shared", "b")
    assert own["value"] == shared["value"] and own["star"] == "*" and shared["star"] == ""
    assert float(shared["p_permutation"]) in [count / 2**5 for count in range(2, 33)]
    changes = [(int(r["pid"][1:]), float(r["change b"])) for r in read_csv(tmp_path / "shared" / "queries.csv")]
    sums = np.bincount(*zip(*changes))[None]
    assert float(shared["p_permutation"]) == permutation_p(sums)[0]
    low, high = person_intervals(sums, np.full(5, PEOPLE // 5))[0]
    assert (float(shared["low"]), float(shared["high"])) == pytest.approx((low, high), abs=5e-6)


def edit(path, change):
    """The JSON file with `change` applied to its content."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def cells(run, change):
    """ranks.csv with `change` applied to its table of cells."""
    with (run / "ranks.csv").open(newline="") as file:
        table = list(csv.reader(file))
    change(table)
    with (run / "ranks.csv").open("w", newline="") as file:
        csv.writer(file).writerows(table)


def spoil_features(run):
    write_run(run.parent / "other", 1.0, ranks=False, saved_features=True)
    shutil.rmtree(run)
    (run.parent / "other").rename(run)
    (run / "features.npz").write_bytes((run / "features.npz").read_bytes()[:900])


def several_sets(run):
    write_run(run / "1-toy", 1.0)
    (run / "metrics.json").write_text('{"datasets": {}}')


FAULTS = {
    "missing": (shutil.rmtree, "b does not exist; name an OUTPUT_DIR"),
    "no metrics": (lambda run: (run / "metrics.json").unlink(), "b/metrics.json does not exist; name an OUTPUT_DIR"),
    "broken metrics": (lambda run: (run / "metrics.json").write_text("{"), "b/metrics.json holds no scores of"),
    "several sets": (several_sets, "b/metrics.json holds no scores of one test; name what is below it, such as"),
    "no queries": (lambda run: (run / "ranks.csv").unlink(), "TEST.SAVE_RANKS True"),
    "broken features": (spoil_features, "b/features.npz is broken"),
    "a text": (lambda run: cells(run, lambda t: t[3].__setitem__(3, "x")), "b/ranks.csv is broken at query 3: could"),
    "no score": (lambda run: cells(run, lambda t: t[3].__setitem__(3, "1.5")), "query 3: AP 1.5, INP"),
    "half a score": (lambda run: cells(run, lambda t: t[2].__setitem__(5, "")), "b/ranks.csv is broken at query 2"),
    "no column": (lambda run: cells(run, lambda t: t[0].__setitem__(4, "x")), "column 'INP' is missing"),
    "no line": (lambda run: cells(run, lambda t: t.__delitem__(slice(1, None))), "b/ranks.csv names no query"),
    "bytes": (lambda run: (run / "ranks.csv").write_bytes(b"\xff" * 99), "b/ranks.csv is broken at query 1"),
    "twice": (lambda run: cells(run, lambda t: t.append(t[1])), "b/ranks.csv names query q/0.jpg 2 times"),
    "too short": (lambda run: cells(run, lambda t: t.pop()), "(30 queries, mAP"),
    "stale": (lambda run: edit(run / "metrics.json", lambda m: m.update(mAP=0.5)), "is not of the test in"),
    "other query": (lambda run: cells(run, lambda t: t[1].__setitem__(0, "q/x.jpg")), "latter has query q/0.jpg"),
    "other camera": (lambda run: cells(run, lambda t: t[2].__setitem__(2, "lawn")), "q/1.jpg (person 1, camera gate)"),
    "other gallery": (lambda run: edit(run / "metrics.json", lambda m: m.update(num_gallery=9)), "gallery 9 and 60"),
    "series": (lambda run: edit(run / "metrics.json", lambda m: m.update(splits=[])), "b is a series of splits"),
}  # fmt: skip
for key, value in {"dataset": "MARS", "ap": "trapezoid", "same_camera_filter": False, "split": "3"}.items():
    FAULTS[key] = (
        lambda run, key=key, value=value: edit(run / "metrics.json", lambda m: m["protocol"].update({key: value})),
        f"b and {{a}} are different tests: {key} ",
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_compared_is_one_line(fault, tmp_path, caplog):
    a, b = write_run(tmp_path / "a", 1.0), write_run(tmp_path / "b", 1.2)
    spoil, message = FAULTS[fault]
    spoil(b)
    before = contents(tmp_path)
    assert message.format(a=a) in one_error(caplog, main, [str(a), str(b), "--out", str(tmp_path / "out")])
    assert contents(tmp_path) == before


def test_the_command_to_test_again_is_the_one_that_helps(tmp_path, caplog):
    a, b = write_run(tmp_path / "a", 1.0), write_run(tmp_path / "b", 1.2, ranks=False)
    line = one_error(caplog, main, [str(a), str(b)])
    assert f"python eval-main.py --config_file {b}/config.yml TEST.WEIGHT {b}/best.pth OUTPUT_DIR {b}-ranks" in line
    edit(b / "metrics.json", lambda m: m.update(weight=f"{a}/best.pth"))
    (a / "config.yml").write_text("")
    edit(b / "metrics.json", lambda m: m.update(config={"TEST.RE_RANKING": True, "DATASETS.ROOT_DIR": "my data"}))
    line = one_error(caplog, main, [str(a), str(b)])
    assert f"--config_file {a}/config.yml TEST.RE_RANKING True DATASETS.ROOT_DIR 'my data'" in line
    assert f"'my data' TEST.WEIGHT {a}/best.pth OUTPUT_DIR {b}-ranks TEST.SAVE_RANKS True" in line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "at least two RUNs, found 0"),
        (["{a}"], "at least two RUNs, found 1"),
        (["{a}", "{a}"], "two rows are called {a}; give one another name"),
        (["x={a}", "x={b}"], "two rows are called x"),
        (["{a}", "x={b},{b}"], "x names a run twice"),
        (["{a}", ""], "command line: a RUN is empty"),
        (["{a}", "x="], "RUN x= is neither a folder nor NAME="),
        (["{a}", "={b}"], "is neither a folder nor NAME="),
        (["{a}", "{b}", "--sheet", "2"], "--sheet writes pictures; name their folder with --out"),
        (["{a}", "{b}", "--sheet", "-2", "--out", "o"], "--sheet -2 is no number of queries"),
        (["{a}", "{b}", "--al-pairs"], "unrecognized arguments: --al-pairs"),
        (["{a}", "{b}", "--out", "{b}/ranks.csv/o"], "ranks.csv/o cannot be made"),
        (["{a}", "{b}", "--out", "{b}/ranks.csv"], "ranks.csv cannot be made"),
        (["{a}", "{b}/.."], "name what is below it, such as {b}/../a"),
        (["{a}", "{a}/metrics.json"], "metrics.json is a file; name an OUTPUT_DIR"),
        (["{a}", "x={a},{c}"], "are no two seeds of one row: re_ranking k1 6 k2 3 lambda 0.3 and off"),
    ],
)
def test_a_fault_of_the_command_line_is_one_line(argv, message, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"a": write_run(tmp_path / "a", 1.0), "b": write_run(tmp_path / "b", 1.2)}
    names["c"] = write_run(tmp_path / "c", 1.0, re_ranking=(6, 3, 0.3))
    before = contents(tmp_path)
    assert message.format(**names) in one_error(caplog, main, [text.format(**names) for text in argv])
    assert contents(tmp_path) == before


def test_an_unfinished_seed_is_named(tmp_path, caplog):
    a = write_run(tmp_path / "a", 1.0)
    write_run(tmp_path / "b" / "seed1", 1.0)
    (tmp_path / "b" / "seed2").mkdir()
    assert f"name what is below it, such as {a}" in one_error(caplog, main, [str(tmp_path), str(a)])
    a.rename(tmp_path / "c")
    a = tmp_path / "c"
    assert f"name what is below it, such as {tmp_path}/b" in one_error(caplog, main, [str(tmp_path), str(a)])
    assert "b/seed2/metrics.json does not exist: the run" in one_error(caplog, main, [str(a), str(tmp_path / "b")])


@pytest.mark.slow
def test_a_mistyped_command_line_is_answered_without_torch():
    code = (
        "import sys; from processor.compare.command import main; code = main(['a', '--outt', 'b']); "
        "print(code, {'torch', 'scipy', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "2 set()" and "unrecognized arguments: --outt" in done.stderr


@pytest.fixture
def re_ranked(trained_run, tiny_mars, tmp_path):
    """The trained run, tested again with re-ranking."""
    out = tmp_path / "re_ranked"
    keys = {"TEST__RE_RANKING": True, "TEST__RE_RANKING_K1": 4, "TEST__RE_RANKING_K2": 2, "TEST__SAVE_RANKS": True}
    weight = trained_run / "best.pth"
    argv = tiny_options(DATASETS__ROOT_DIR=tiny_mars, OUTPUT_DIR=out, TEST__WEIGHT=weight, **keys)
    assert eval_main(argv) == 0
    return out


def test_a_sheet_shows_both_ranked_lists_of_the_queries_that_changed_most(trained_run, re_ranked, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "changes7.png").write_bytes(b"of an earlier comparison")
    assert main([str(trained_run), str(re_ranked), "--out", str(out), "--sheet", "2"]) == 0
    assert not (out / "changes7.png").exists()
    config, keys = config_of(load_row("re_ranked", [re_ranked]))  # of the test, not of the training
    assert config is None and keys[keys.index("TEST.RE_RANKING") + 1] == "True"
    changed = sum(float(row["change re_ranked"]) != 0 for row in read_csv(out / "queries.csv"))
    assert changed > 2
    picture = np.asarray(Image.open(out / "changes1.png").convert("RGB"))
    border = 108 * 204 - 96 * 192
    expected = {"green": 0, "red": 0}
    for row in read_csv(out / "queries.csv")[:2]:
        for run in (trained_run, re_ranked):
            (ranked,) = [r for r in read_csv(run / "ranks.csv") if r["query"] == row["query"]]
            for place in range(1, 6):
                expected["green" if ranked[f"top{place}_pid"] == row["pid"] else "red"] += border
    colours = {"green": (26, 150, 65), "red": (215, 25, 28)}
    assert {n: int((picture == np.array(rgb)).all(axis=2).sum()) for n, rgb in colours.items()} == expected
    assert int((picture == (43, 92, 138)).all(axis=2).sum()) == 4 * border


def test_without_the_frames_all_but_the_sheet_is_written_and_that_is_said_once(
    trained_run, re_ranked, tmp_path, caplog
):
    moved = tmp_path / "moved"
    shutil.copytree(trained_run, moved, ignore=shutil.ignore_patterns("*.pth"))
    config = (moved / "config.yml").read_text().splitlines()
    config = ["  ROOT_DIR: /nowhere" if line.strip().startswith("ROOT_DIR:") else line for line in config]
    (moved / "config.yml").write_text("\n".join(config))
    named = [str(moved), str(re_ranked), f"again={re_ranked}"]
    with caplog.at_level(logging.WARNING):
        assert main([*named, "--out", str(tmp_path / "out"), "--sheet", "2"]) == 0
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("no sheet is drawn: DATASETS.ROOT_DIR /nowhere")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.csv", "queries.csv"]
