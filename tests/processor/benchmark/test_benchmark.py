"""The benchmark command on a tiny model: its lines agree with each other, and nothing is left behind."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from processor.benchmark import command as benchmark
from processor.benchmark import data, parts, ranking
from processor.benchmark.data import RankingInput
from processor.benchmark.table import number_text
from tests.conftest import TINY_OPTIONS
from utils.errors import InputError

TINY = {
    "warm_up": 1, "steps": 2, "pass_clips": 5, "identities": 2, "loader_batches": 2, "loader_rounds": 2,
    "loader_seconds": 0.05, "decode_frames": 8, "matmul_side": 64, "copy_bytes": 2**16,
    "ranking": (6, 30, 8), "ranking_repeats": 1, "re_ranking_repeats": 1,
}  # fmt: skip
ALL = ("loader", "step", "memory", "dense", "rank", "rerank")


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary folders are made; the sizes are tiny, and nothing starts a process."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name, size in TINY.items():
        monkeypatch.setitem(benchmark.SIZES, name, (size, size))
    for module in (benchmark, ranking):
        monkeypatch.setattr(module, "in_own_process", lambda function, *arguments: function(*arguments))
    return folder


def argv(*flags: str, **overrides: object) -> list[str]:
    options = TINY_OPTIONS | {key.replace("__", "."): str(value) for key, value in overrides.items()}
    return [*flags, *(part for pair in options.items() for part in pair)]


def cells(text: str) -> dict[tuple[str, str], list[str]]:
    """Part and what -> the cells of that line of a printed table."""
    lines = text[text.index("part  ") :].splitlines()
    rows = [re.split(r"  +", line.strip()) for line in lines if re.match(r"(limits|" + "|".join(ALL) + ")  ", line)]
    return {(row[0], row[1]): row for row in rows}


@pytest.fixture
def measured(temporary, tmp_path, capsys) -> tuple[dict, str]:
    """The JSON file of all parts, and what was printed."""
    out = tmp_path / "numbers.json"
    assert benchmark.main(argv("--json", str(out))) == 0
    assert list(temporary.iterdir()) == []
    return json.loads(out.read_text()), capsys.readouterr().out


def test_every_part_is_measured_and_the_lines_agree(measured):
    rows = measured[0]["measurements"]
    assert list(dict.fromkeys(row["part"] for row in rows)) == ["limits", *ALL]
    value = {(row["part"], row["what"]): row["value"] for row in rows}
    limit = {(row["part"], row["what"]): row["limit_value"] for row in rows}
    assert all(number > 0 for number in value.values())
    assert limit["loader", "in this process"] == value["limits", "raw decode, one thread"]
    assert value["loader", "in this process, per core"] == value["loader", "in this process"]
    assert limit["loader", "in this process, per core"] is None  # the release's rate is of larger frames
    step = "4x2 at 32x16"  # clips x frames of TINY_OPTIONS
    seconds = value["step", f"{step}, median"] / 1000
    assert value["step", f"{step}, least"] / 1000 <= seconds
    assert value["step", f"{step}, frames"] == pytest.approx(4 * 2 / seconds)
    assert value["step", f"{step}, MFU"] == pytest.approx(value["step", f"{step}, forward and backward"] / seconds)
    assert limit["step", f"{step}, MFU"] == pytest.approx(value["limits", "matmul, float32"])
    assert value["step", f"{step}, epoch of 460 steps"] == pytest.approx(460 * seconds / 60)
    for part, title, mars, frames in (
        ("memory", "CLIP-Memory pass", "509,914 frames", 509_914),
        ("dense", "dense test", "87,000 clips of 2", 174_000),
    ):
        name = f"{title}, clips of 2 at 32x16"
        assert value[part, f"{name}: MARS, {mars}"] == pytest.approx(frames / value[part, name] / 60)
    assert [what for part, what in value if part in ("rank", "rerank") and what.endswith("time")] == [
        f"{kind}, 6 x 30 x 8{of}, time" for kind in ("clusters", "random") for of in ("", ", argsort reference")
    ] + [f"{ks}, 36 items{of}, time" for ks in ("k1 20, k2 6", "k1 50, k2 15") for of in ("", ", textbook")]


def test_table_and_file_say_the_same(measured):
    content, printed = measured
    table = cells(printed)
    assert table.keys() == {(row["part"], row["what"]) for row in content["measurements"]}
    for row in content["measurements"]:
        numbers = [number_text(row["value"]), row["unit"]]
        if row["limit"]:
            assert row["fraction"] == pytest.approx(row["value"] / row["limit_value"])
            numbers += [row["limit"], number_text(row["limit_value"]), f"{row['fraction']:.2f}"]
        assert table[row["part"], row["what"]][2:] == numbers
        assert float(numbers[0].replace(",", "")) == pytest.approx(row["value"], rel=1e-3)  # four digits
    assert f"torch: {torch.__version__}" in printed and "data: synthetic" in printed and "precision: float32" in printed
    assert content["command"].startswith("python -m processor.benchmark --json ")
    assert content["threads"] == torch.get_num_threads() and content["sizes"] == "reduced"


def test_only_the_parts_asked_for_run_and_draw_nothing_that_they_do_not_read(temporary, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "synthetic_mars", lambda *_: pytest.fail("drawn"))
    assert benchmark.main(argv("--parts", "rank, step")) == 0
    table = cells(capsys.readouterr().out)
    assert list(dict.fromkeys(part for part, _ in table)) == ["limits", "step", "rank"]
    assert ("limits", "raw decode, one thread") not in table and ("limits", "matmul, float32") in table


@pytest.mark.parametrize("given", ["loader,encoder", "", ","])
def test_an_unknown_part_is_one_line_with_the_accepted_ones(given, temporary, capsys):
    assert benchmark.main(argv("--parts", given)) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and f"'{'encoder' if 'encoder' in given else ''}'" in errors
    assert ", ".join(ALL) in errors


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(temporary, tmp_path, capsys):
    for out in (tmp_path / "absent" / "a.json", tmp_path):
        assert benchmark.main(argv("--json", str(out))) == 2
        said = capsys.readouterr()
        assert f"--json {out}" in said.err and said.err.count("\n") == 1 and "measuring" not in said.out


def test_given_data_are_what_is_measured(temporary, tiny_mars, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "synthetic_mars", lambda *_: pytest.fail("drawn"))
    before, read = sorted(tiny_mars.rglob("*")), []
    rates = itertools.count(1000.0, 500.0)

    def decode_rate(encoded, repeats):
        read[:] = encoded
        return next(rates)

    monkeypatch.setattr(benchmark, "decode_rate", decode_rate)
    assert benchmark.main(argv("--parts", "loader,memory,dense", DATASETS__ROOT_DIR=tiny_mars)) == 0
    said = capsys.readouterr().out
    assert f"data: {tiny_mars}" in said and {part for part, _ in cells(said)} == {"limits", "loader", "memory", "dense"}
    # Before all parts, after both rounds of the loader, after each of three parts: the best of 1,000, 1,500, ... 3,500.
    assert cells(said)["limits", "raw decode, one thread"][2] == "3,500"
    assert len(read) == TINY["decode_frames"] and set(read) <= {path.read_bytes() for path in tiny_mars.rglob("*.jpg")}
    assert sorted(tiny_mars.rglob("*")) == before
    assert benchmark.main(argv("--parts", "loader", DATASETS__ROOT_DIR=tiny_mars / "absent")) == 2


@pytest.mark.parametrize(
    ("fault", "code"), [(KeyboardInterrupt(), 130), (InputError("frame x is broken"), 2), (RuntimeError("x"), 1)]
)
@pytest.mark.parametrize("where", ["training_loader_rate", "tracklet_pass_rate"])
def test_the_temporary_folder_is_gone_after_any_end(fault, code, where, temporary, monkeypatch):
    there = []

    def end(*_):
        there.extend(temporary.iterdir())
        raise fault

    monkeypatch.setattr(parts, where, end)
    assert benchmark.main(argv()) == code
    assert len(there) == 1 and there[0].name.startswith(data.PREFIX)
    assert list(temporary.iterdir()) == []


def rank_for_ever(given: RankingInput) -> None:
    """Stands for the ranking in a measuring process: says that it runs, and never ends by itself."""
    Path(os.environ["RUNNING_FILE"]).touch()
    time.sleep(10_000)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_the_measuring_process_too(tmp_path):
    script = (
        "import sys; from processor.benchmark import command, ranking\n"
        "from tests.processor.benchmark import test_benchmark as t\n"
        "command.SIZES.update({name: (size, size) for name, size in t.TINY.items()})\n"
        "ranking.rank = t.rank_for_ever\n"
        "sys.exit(command.main(sys.argv[1:]))"
    )
    home, said, running = Path(benchmark.__file__).parents[2], tmp_path / "said", tmp_path / "running"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "RUNNING_FILE": str(running)}
    with said.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *argv("--parts", "loader,rank")], cwd=home, stdout=subprocess.PIPE,
            stderr=file, env=os.environ | environment, start_new_session=True,
        )  # fmt: skip
    while not running.exists() and process.poll() is None:  # however long that takes on a busy machine
        time.sleep(0.1)
    assert running.exists(), said.read_text()
    assert any(temporary.glob(f"{data.PREFIX}*"))
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=300)  # ends when no process holds the pipe any more
    text = out.decode() + said.read_text()
    assert process.returncode == 130 and "stopped by Ctrl-C" in text and "Traceback" not in text
    assert "leaked" not in text and list(temporary.iterdir()) == []


def test_full_takes_the_sizes_of_the_config_and_both_kinds_of_step(temporary, monkeypatch, capsys):
    asked = []

    def answer(function, cfg, *rest):
        asked.append((cfg.INPUT.SIZE_TRAIN, cfg.INPUT.SEQ_LEN, cfg.SOLVER.IMS_PER_BATCH, rest[-1]))
        return [0.5, 0.25, 4.0], 3_000_000

    monkeypatch.setattr(benchmark, "in_own_process", answer)
    larger = {"INPUT__SIZE_TRAIN": "[160,80]", "INPUT__SIZE_TEST": "[160,80]", "INPUT__SEQ_LEN": 6}
    larger |= {"SOLVER__IMS_PER_BATCH": 20, "DATALOADER__NUM_INSTANCE": 5}
    assert benchmark.main(argv("--full", "--parts", "step", **larger)) == 0
    assert asked == [([160, 80], 6, 20, False), ([160, 80], 6, 20, True)]
    table = cells(capsys.readouterr().out)
    assert table["step", "20x6 at 160x80, compiled, median"][2] == "500.0"
    assert table["step", "20x6 at 160x80, frames"][2] == "240.0"
    asked.clear()
    assert benchmark.main(argv("--parts", "step", **larger)) == 0
    assert asked == [([128, 64], 4, 8, False)]


def test_a_machine_without_compiler_measures_the_step_as_it_is(temporary, monkeypatch, capsys):
    def answer(function, cfg, warm_up, steps, compiled):
        if compiled:
            raise InputError("no compiler")
        return [0.5], None

    monkeypatch.setattr(benchmark, "in_own_process", answer)
    assert benchmark.main(argv("--full", "--parts", "step")) == 0
    said, warned = capsys.readouterr()
    assert "the compiled step is left out: no compiler" in warned
    assert all("compiled" not in what for _, what in cells(said))
    assert benchmark.main(argv("--parts", "step", SOLVER__COMPILE=True)) == 2
