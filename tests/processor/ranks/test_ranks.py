"""Several processes train and test as one: gloo on the CPU stands for NCCL on GPUs."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from datasets.clips import IdentitySampler
from processor.distributed import Ranks
from tests.conftest import ROOT, load, metrics, read_csv, tiny_options
from tests.processor.ranks.launch import DRIVER, errors, finished, start

TRAIN = ROOT / "train-main.py"
KEYS = {
    "SOLVER__IMS_PER_BATCH": 8, "SOLVER__MAX_EPOCHS": 3, "SOLVER__BASE_LR": 1e-4, "TEST__SAVE_FEATURES": True,
}  # fmt: skip


@pytest.mark.parametrize(("count", "size"), [(8, 1), (8, 2), (8, 3), (64, 5), (3, 4)])
def test_shares_and_deals_cover_every_row_once(count, size):
    ranks = [Ranks(rank, size) for rank in range(size)]
    rows = list(range(count))
    assert [row for rank in ranks for row in rows[rank.share(count)]] == rows
    assert sorted(row for rank in ranks for row in rank.deal(count)) == rows
    lengths = [len(rows[rank.share(count)]) for rank in ranks]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_batches_of_the_ranks_are_those_of_one_process_cut(size):
    pids = [pid for pid in range(9) for _ in range(5)]
    whole = IdentitySampler(pids, 8, 2, seed=3)
    parts = [IdentitySampler(pids, 8, 2, seed=3, share=Ranks(rank, size).share(8)) for rank in range(size)]
    for epoch in (0, 4):
        for sampler in (whole, *parts):
            sampler.set_epoch(epoch)
        assert len(whole) == len(parts[0])
        assert [sum(shares, []) for shares in zip(*parts)] == list(whole)
    whole.set_epoch(4, start=3)
    assert list(whole) == [sum(shares, []) for shares in zip(*parts)][3:]


@pytest.mark.slow
def test_rows_features_and_signals_reach_all_ranks():
    said = finished(start(3, Path(__file__).with_name("collectives.py")))
    assert all(f"rank {rank} is through" in said for rank in range(3))


VARIANTS = {
    "plain": ({}, (2, 4)),
    "parts": ({"SOLVER__ACCUM_STEPS": 2, "MODEL__GRAD_CHECKPOINT": True}, (2, 3)),
    "TAP": ({"MODEL__TEMPORAL": "TAP"}, (2,)),
    "CONV1D": ({"MODEL__TEMPORAL": "CONV1D"}, (2,)),
    "CONV1D_VIEW": ({"MODEL__TEMPORAL": "CONV1D_VIEW"}, (2,)),
    "TRANSF": ({"MODEL__TEMPORAL": "TRANSF"}, (2,)),
    "TRANSF_CLS": ({"MODEL__TEMPORAL": "TRANSF_CLS"}, (2,)),
    "no memory": ({"MODEL__MEMORY": "none", "MODEL__SSP__ENABLED": False}, (2,)),
    "text": ({"MODEL__MEMORY": "text", "MODEL__ENCODER__TEXT_DEPTH": 2, "SOLVER__TEXT__MAX_EPOCHS": 2}, (2,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_several_processes_compute_what_one_computes(variant, tiny_mars, tmp_path):
    """Three epochs of three or four steps: losses, norms of the gradient, weights and history."""
    if variant == "text":
        pytest.importorskip("open_clip")
    pytest.importorskip("tensorboard")
    from tests.processor.training.test_events import curves

    keys, sizes = VARIANTS[variant]
    keys = keys | {"SOLVER__TENSORBOARD": True, "SOLVER__LOG_PERIOD": 1}
    for size in (1, *sizes):
        options = tiny_options(**KEYS | keys, DATASETS__ROOT_DIR=tiny_mars, OUTPUT_DIR=tmp_path / str(size))
        finished(start(size, DRIVER, tmp_path / f"losses{size}", *options))
    one, alone = tmp_path / "1", load(tmp_path / "1" / "last.pth")
    steps = [json.loads(line) for line in (tmp_path / "losses1").read_text().splitlines()]
    for size in sizes:
        folder, together = tmp_path / str(size), load(tmp_path / str(size) / "last.pth")
        losses = [json.loads(line) for line in (tmp_path / f"losses{size}").read_text().splitlines()]
        assert len(losses) == len(steps) >= 10
        for found, expected in zip(losses, steps):
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
        norms, expected = (curves(run)["gradient/norm"] for run in (folder, one))
        assert len(norms) == sum("id" in step for step in steps)  # the text stage has no events
        assert norms == [(step, pytest.approx(norm, rel=1e-4)) for step, norm in expected]
        assert len(list((folder / "tensorboard").iterdir())) == 1  # rank 0 alone
        for name, weight in alone["model"].items():
            np.testing.assert_allclose(together["model"][name], weight, rtol=1e-5, atol=1e-5, err_msg=name)
        for found, expected in zip(read_csv(folder / "history.csv"), read_csv(one / "history.csv")):
            for column in set(expected) - {"seconds"}:
                assert float(found[column]) == pytest.approx(float(expected[column]), rel=1e-4, abs=1e-6), column
        assert len(together["rank_rng"]) == size - 1 and not alone["rank_rng"]


@pytest.mark.slow
def test_features_and_scores_of_a_test_do_not_depend_on_the_number_of_processes(trained_run, tiny_mars, tmp_path):
    found = {}
    for size in (1, 2, 4):
        options = tiny_options(
            TEST__WEIGHT=trained_run / "best.pth", TEST__SAVE_FEATURES=True, DATASETS__ROOT_DIR=tiny_mars,
            OUTPUT_DIR=tmp_path / str(size),
        )  # fmt: skip
        finished(start(size, ROOT / "eval-main.py", *options))
        found[size] = np.load(tmp_path / str(size) / "features.npz"), metrics(tmp_path / str(size))
    for size in (2, 4):
        for name in found[1][0].files:
            expected = found[1][0][name]
            if expected.dtype.kind == "f":
                scale = np.abs(expected).max()
                np.testing.assert_allclose(found[size][0][name] / scale, expected / scale, rtol=0, atol=1e-6)
            else:
                np.testing.assert_array_equal(found[size][0][name], expected)
        assert found[size][1] == found[1][1]


@pytest.mark.slow
def test_a_fault_of_all_ranks_or_of_one_is_one_line_and_an_exit_code(tiny_mars, tmp_path):
    options = tiny_options(**KEYS, DATASETS__ROOT_DIR=tiny_mars, OUTPUT_DIR=tmp_path / "run")
    said = finished(start(2, TRAIN, *options, "SOLVER.BASE_LRR", 1), code=None)
    assert errors(said) == ["error: command line: unknown key SOLVER.BASE_LRR: did you mean SOLVER.BASE_LR?"]
    assert said.count("exitcode  : 2 ") + said.count("exitcode  : -15") == 2  # torchrun's report
    said = finished(start(2, TRAIN, *options, "SOLVER.ACCUM_STEPS", 8), code=None)
    assert len(errors(said)) == 1 and "raise it to 16 or more" in errors(said)[0]
    data = shutil.copytree(tiny_mars, tmp_path / "mars")
    broken = sorted(data.rglob("bbox_train/*/*.jpg"))[3]
    broken.write_bytes(b"no picture")
    said = finished(start(2, TRAIN, *options, "DATASETS.ROOT_DIR", data), code=None)
    (line,) = errors(said)
    assert str(broken) in line and line.endswith("restore the file")
    assert "not a fault of the input" not in said


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_and_any_number_of_processes_goes_on(tiny_mars, tmp_path):
    run = tmp_path / "run"
    keys = KEYS | {"SOLVER__MAX_EPOCHS": 4, "SOLVER__EVAL_PERIOD": 4, "SOLVER__SAVE_EVERY_STEPS": 1}
    keys |= {"DATASETS__ROOT_DIR": tiny_mars}
    slow = {"SOLVER__MAX_EPOCHS": 400, "SOLVER__EVAL_PERIOD": 400}
    process = start(2, TRAIN, *tiny_options("--resume", "auto", **keys | slow, OUTPUT_DIR=run))
    pids = ranks_of(process)
    wait_for(run / "last.pth", process)
    os.kill(pids[1], signal.SIGTERM)
    said = finished(process, code=None)
    assert said.count("is saved: ") == 1 and "exitcode  : 143" in said, said
    state = load(run / "last.pth")
    assert len(state["rank_rng"]) == 1
    for size in (3, 1):
        process = start(size, TRAIN, *tiny_options("--resume", "auto", **keys | slow, OUTPUT_DIR=run))
        before, pids = (run / "last.pth").stat().st_mtime_ns, ranks_of(process)
        wait_for(run / "last.pth", process, newer=before)
        os.kill(pids[0], signal.SIGUSR1)
        said = finished(process, code=138 if size == 1 else None)
        assert "continuing after epoch" in said and said.count("is saved: ") == 1
        further = load(run / "last.pth")
        assert (further["epoch"], further["step"]) > (state["epoch"], state["step"])
        assert len(further["rank_rng"]) == size - 1
        state = further


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_within_seconds(tiny_mars, tmp_path):
    keys = KEYS | {"SOLVER__MAX_EPOCHS": 400, "SOLVER__EVAL_PERIOD": 400, "DATASETS__ROOT_DIR": tiny_mars}
    process = start(2, TRAIN, *tiny_options(**keys, OUTPUT_DIR=tmp_path / "run"))
    pids = ranks_of(process)
    wait_for(tmp_path / "run" / "history.csv", process)
    begin = time.monotonic()
    os.kill(pids[1], signal.SIGKILL)
    said = finished(process, code=None)
    assert time.monotonic() - begin < 60 and "Signal 9 (SIGKILL)" in said
    assert load(tmp_path / "run" / "last.pth")["epoch"] >= 0


def ranks_of(process) -> list[int]:
    """The process numbers of the ranks, which torchrun starts in their order."""
    if "torch.distributed.run" not in process.args:
        return [process.pid]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("needs /proc")
    count, deadline = int(process.args[process.args.index("--nproc_per_node") + 1]), time.monotonic() + 60
    while len(children.read_text().split()) < count and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    return sorted(map(int, children.read_text().split()))


def wait_for(path: Path, process, newer: int = 0) -> None:
    """Until the file is there, and was written after the time `newer` (ns)."""
    deadline = time.monotonic() + 120
    while not (path.exists() and path.stat().st_mtime_ns > newer):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.1)
