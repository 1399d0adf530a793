"""python -m processor.attention: which tracklets it shows, what it writes, how it refuses."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from configs import load_cfg
from datasets import load_splits
from datasets.synthetic.command import write_set
from datasets.tracklet import ReIDSplits, Tracklet
from processor.attention import _saved_precisions, main
from processor.evaluation import attention_pictures, best_middle_worst
from processor.run_folder import discard_run
from processor.trained_model import load_trained
from tests.conftest import ROOT, contents, one_error, read_csv


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def frames(tiny_mars, tmp_path_factory) -> Path:
    """A folder of frames whose natural order is not that of the alphabet: 1, 2, 10."""
    folder = tmp_path_factory.mktemp("frames") / "person"
    folder.mkdir()
    for name, source in zip(("10", "1", "2"), sorted((tiny_mars / "bbox_test").rglob("*.jpg"))):
        shutil.copy(source, folder / f"{name}.jpg")
    (folder / "notes.txt").write_text("not a frame")
    return folder


@pytest.fixture(scope="module")
def splits(tiny_mars) -> ReIDSplits:
    return load_splits("MARS", str(tiny_mars))


def pictures_of(notes: dict[int, str]) -> set[str]:
    return {f"query{row + 1}.png" for row in notes}


def test_best_middle_and_worst_of_the_last_test_are_shown(run, capsys):
    precisions = [float(row["AP"]) for row in read_csv(run / "ranks.csv")]
    before = contents(run)
    assert main([str(run)]) == 0
    notes = best_middle_worst(precisions)
    assert {path.name for path in (run / "attention").iterdir()} == pictures_of(notes) and len(notes) == 3
    lines = capsys.readouterr().out.splitlines()
    for (row, note), line, below in zip(notes.items(), lines[::2], lines[1::2]):
        assert line.startswith(f"wrote {run}/attention/query{row + 1}.png: query {row + 1}: person ") and note in line
        assert below.startswith("  Clip 1 of ") and "memory token in MD" in below
    assert lines[-1].startswith("Attention says from where a token takes values")
    assert {path: content for path, content in contents(run).items() if path.parts[0] != "attention"} == before


def test_without_ranks_the_queries_are_tested(run, splits, capsys):
    precisions = _saved_precisions(run / "best.pth", splits)
    (run / "ranks.csv").unlink()
    assert main([str(run)]) == 0
    notes, text = best_middle_worst(precisions), capsys.readouterr().out
    assert {path.name for path in (run / "attention").iterdir()} == pictures_of(notes)
    assert all(note in text for note in notes.values())


def test_ranks_of_other_weights_or_queries_are_not_believed(run, splits):
    best, last, ranks = run / "best.pth", run / "last.pth", (run / "ranks.csv").read_text()
    saved = [float(row["AP"]) for row in read_csv(run / "ranks.csv")]
    assert _saved_precisions(best, splits) == saved
    assert _saved_precisions(last, splits) is None
    metrics = (run / "metrics.json").read_text()
    (run / "metrics.json").write_text(json.dumps(json.loads(metrics) | {"weight": str(last)}))
    assert _saved_precisions(best, splits) is None and _saved_precisions(last, splits) == saved
    (run / "metrics.json").write_text(metrics)
    for other in (ranks.replace("bbox_test", "bbox_tests"), ranks.replace("AP", "ap"), "", "query,AP\nx,y"):
        (run / "ranks.csv").write_text(other)
        assert _saved_precisions(best, splits) is None
    first = ranks.splitlines()[1].split(",")
    (run / "ranks.csv").write_text(ranks.replace(",".join(first), ",".join([*first[:3], "", *first[4:]])))
    assert math.isnan(_saved_precisions(best, splits)[0])


def test_another_data_set_is_not_tested_and_its_cameras_are_not_known(run, tmp_path, caplog):
    root = tmp_path / "market"
    write_set(root, "market1501", workers=0, train_ids=2, test_ids=2, size=(32, 16), cameras=2, tracklets=2)
    config = [line for line in (run / "config.yml").read_text().splitlines() if "CACHE_DIR" not in line]
    config = [f"  ROOT_DIR: {root}" if "ROOT_DIR:" in line else line for line in config]
    text = "\n".join("  NAMES: Market1501" if "NAMES:" in line else line for line in config)
    (tmp_path / "market.yml").write_text(text)
    argv = ["--weight", str(run / "best.pth"), "--config_file", str(tmp_path / "market.yml")]
    assert "Market1501 has other cameras than the data set of the training" in one_error(caplog, main, argv)
    trained = load_trained(run / "best.pth", load_cfg(tmp_path / "market.yml"), "cpu")
    (query,) = load_splits("Market1501", str(root)).query[:1]
    title, query = f"query 1: person {query.pid}, camera 1", replace(query, camid=trained.no_camera)
    (expected,) = attention_pictures(trained, [query], [title])
    assert main([*argv, "--query", "1"]) == 0
    assert (run / "attention" / "query1.png").read_bytes() == expected.png


def test_overwriting_a_run_removes_its_pictures(tmp_path):
    (tmp_path / "attention").mkdir()
    for name in ("query1.png", "query12_clip2.png"):
        (tmp_path / "attention" / name).touch()
    discard_run(tmp_path)
    assert not any(tmp_path.iterdir())
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / "person.png").touch()  # of frames that do not belong to the run
    discard_run(tmp_path)
    assert (tmp_path / "attention" / "person.png").exists()


def test_queries_and_a_clip_can_be_named(run, tmp_path, capsys):
    out = tmp_path / "some" / "out"
    (run / "ranks.csv").unlink()
    assert main(["--weight", str(run / "last.pth"), "--query", "2, 1,2", "--clip", "2", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["query1_clip2.png", "query2_clip2.png"]
    text = capsys.readouterr().out
    assert "  Clip 2 of" in text and "AP" not in text


def test_a_folder_of_frames_needs_no_data_set(run, frames, monkeypatch):
    monkeypatch.setattr("datasets.configured_splits", None)  # nobody calls it
    trained = load_trained(run / "best.pth", device="cpu")
    paths = tuple(str(frames / f"{number}.jpg") for number in (1, 2, 10))
    (picture,) = attention_pictures(trained, [Tracklet(paths, 0, 1)], ["person"], clip=1)
    assert main([str(run), "--input", str(frames), "--clip", "2", "--camera", "2"]) == 0
    assert (run / "attention" / "person_clip2.png").read_bytes() == picture.png


FAULTS = {
    "neither": (
        [],
        "command line: name RUN, the OUTPUT_DIR of a training, or --weight FILE, and not both (see --help)",
    ),
    "both": (["{run}", "--weight", "x"], "command line: name RUN"),
    "unknown option": (["{run}", "--quary", "1"], "unrecognized arguments: --quary"),
    "two things to show": (["{run}", "--query", "1", "--input", "{frames}"], "give one of the two"),
    "camera of a query": (["{run}", "--camera", "1"], "--camera belongs to --input"),
    "no number": (["{run}", "--query", "1,b"], "--query 1,b must be numbers from 1, separated by commas"),
    "number 0": (["{run}", "--query", "0"], "must be numbers from 1"),
    "no query at all": (["{run}", "--query", ""], "must be numbers from 1"),
    "number too high": (["{run}", "--query", "999"], "--query 999: MARS has queries 1 to "),
    "clip 0": (["{run}", "--clip", "0"], "--clip 0: the first clip is 1"),
    "no such clip": (["{run}", "--query", "1", "--clip", "9"], "there is no clip 9 of the tracklet that begins with "),
    "no run": (["{tmp}/none"], "none/best.pth does not exist; RUN is OUTPUT_DIR of a training"),
    "run is a file": (["{frames}/1.jpg"], "1.jpg is a file; RUN is the folder of a training"),
    "series": (["{tmp}/series"], "is a series of splits; name one of them, such as {tmp}/series/split0"),
    "broken weights": (["--weight", "{frames}/notes.txt"], "weight file {frames}/notes.txt cannot be read"),
    "no folder": (["{run}", "--input", "{tmp}/none"], "--input {tmp}/none does not exist"),
    "no frames": (["{run}", "--input", "{tmp}/empty"], "--input {tmp}/empty holds no image (.jpg"),
    "input is a file": (["{run}", "--input", "{frames}/1.jpg"], "1.jpg is a file; name the folder"),
    "unreadable frame": (["{run}", "--input", "{tmp}/broken"], "frame {tmp}/broken/1.jpg cannot be decoded"),
    "unknown camera": (["{run}", "--input", "{frames}", "--camera", "roof"], "camera 'roof' is unknown to the model"),
    "no config file": (["{run}", "--config_file", "{tmp}/no.yml"], "no.yml"),
    "out is a file": (["{run}", "--out", "{frames}/1.jpg/a"], "--out {frames}/1.jpg/a cannot be written (Not a dir"),
    "data moved": (["{run}", "--config_file", "{tmp}/moved.yml"], "and --input FOLDER shows frames without a data set"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_said_in_one_line_and_nothing_is_written(fault, trained_run, frames, tmp_path, caplog):
    argv, message = FAULTS[fault]
    places = {"run": trained_run, "frames": frames, "tmp": tmp_path}
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.jpg").write_bytes(b"no image")
    (tmp_path / "series" / "split0").mkdir(parents=True)
    (tmp_path / "series" / "split0" / "best.pth").touch()
    config = (trained_run / "config.yml").read_text().splitlines()
    config = [f"  ROOT_DIR: {tmp_path}/gone" if "ROOT_DIR" in line else line for line in config]
    (tmp_path / "moved.yml").write_text("\n".join(config))
    before = contents(trained_run) | contents(tmp_path)
    assert message.format(**places) in one_error(caplog, main, [text.format(**places) for text in argv])
    assert contents(trained_run) | contents(tmp_path) == before and not (trained_run / "attention").exists()


@pytest.mark.slow
def test_a_mistyped_option_is_answered_without_torch():
    code = (
        "import sys; from processor.attention import main; code = main(['runs/x', '--quary', '1']); "
        "print(code, {'torch', 'matplotlib', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "2 set()" and "--quary" in done.stderr
