"""Single measurements of the benchmark: what is timed, counted and held against what."""

import operator
import os
import platform
import signal
import tempfile
import time
from io import BytesIO
from multiprocessing.context import SpawnProcess

import numpy as np
import pytest
import torch
from PIL import Image

from configs import load_cfg
from datasets.clips.dataset import ClipBatch
from datasets.tracklet import Tracklet
from loss import build_criterion
from model import build_model
from processor.benchmark import data, limits, parts, ranking
from processor.benchmark.process import in_own_process, with_peak
from processor.benchmark.table import Limit, Measurement, number_text
from processor.runtime import Runtime
from utils.errors import InputError
from utils.metrics import rank_features
from utils.reranking import k_reciprocal_rerank

CPU = torch.device("cpu")


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time, which a test moves on; all modules share the clock."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_lines_of_a_step_by_hand():
    lines = parts.step_lines("s", [0.2, 0.1, 0.4], 40, 6e12, 2_000_000, "RAM", "matmul, tf32")
    found = {line.what: line.cells({"matmul, tf32": 1e14}) for line in lines}
    values = {"forward and backward": 6, "median": 200, "least": 100, "frames": 200, "MFU": 30, "peak RAM": 2}
    for what, value in values.items():
        assert found[f"s, {what}"]["value"] == pytest.approx(value)
    assert found["s, epoch of 460 steps"]["value"] == pytest.approx(0.2 * 460 / 60)
    assert found["s, MFU"]["limit_value"] == pytest.approx(100)
    assert found["s, MFU"]["fraction"] == pytest.approx(0.3)
    assert "s, peak RAM" not in {line.what for line in parts.step_lines("s", [1], 1, 1, None, "RAM", "")}


@pytest.mark.parametrize(
    ("flops", "workers", "limit", "value"),
    [(1e9, 2, "raw decode x 2", 800), (1e9, 0, "raw decode x 1", 400), (4e9, 2, "matmul / FLOP of a frame", 250)],
)
def test_a_pass_is_held_against_the_smaller_limit(flops, workers, limit, value):
    first, mars = parts.pass_lines("dense", "p", 100.0, 8, workers, flops, "matmul, tf32")
    line = first.cells({"decode": 400.0, "matmul, tf32": 1e12})
    assert line["limit"] == limit and line["limit_value"] == pytest.approx(value)
    assert line["fraction"] == pytest.approx(100 / value)
    assert mars.what == "p: MARS, 87,000 clips of 8" and mars.value == pytest.approx(87_000 * 8 / 100 / 60)


@pytest.mark.parametrize(("workers", "per_core"), [(0, 3660.0), (3, 1220.0)])
def test_a_loader_is_held_against_decoding_and_on_such_frames_against_the_release(workers, per_core):
    lines = parts.loader_lines(workers, 3660.0, 250_000.0, True)
    rate, core, *receiver = (line.cells({"decode": 7320.0}) for line in lines)
    assert (rate["value"], rate["limit_value"]) == (3660.0, 7320.0 * max(1, workers))
    assert (core["value"], core["limit_value"], core["fraction"]) == (per_core, 1220, per_core / 1220)
    assert [line["value"] for line in receiver] == ([4.0] if workers else [])
    assert not parts.loader_lines(workers, 3660.0, 250_000.0, False)[1].limits


@pytest.mark.parametrize(("part", "items"), [("rank", "40 x 100"), ("rerank", "140 x 140")])
def test_a_ranking_is_held_against_the_product_and_the_matrix(part, items, monkeypatch):
    rows, columns = map(int, items.split(" x "))
    monkeypatch.setattr(ranking, "in_own_process", lambda *_: (3.0, 2.0, 8 * rows * columns))
    seconds, memory = (line.cells({}) for line in ranking._lines(part, "r", print, "random", (40, 100, 8), CPU, 1))
    assert (seconds["what"], seconds["fraction"]) == ("r, time", 1.5)
    assert memory["what"] == "r, extra RAM" and memory["fraction"] == pytest.approx(2)
    monkeypatch.setattr(ranking, "in_own_process", lambda *_: (3.0, 2.0, None))
    assert len(list(ranking._lines(part, "r", print, "random", (40, 100, 8), CPU, 1))) == 1


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_number_is_no_measurement(value):
    for line in (Measurement("rank", "x", value, "s"), Measurement("rank", "x", 1.0, "s", [Limit("limit", value)])):
        with pytest.raises(ValueError, match="no measured number"):
            line.cells({})


@pytest.mark.parametrize(
    ("value", "text"), [(1234567.8, "1,234,568"), (999.96, "1000"), (12.3456, "12.35"), (0.0012345, "0.001234")]
)
def test_numbers_have_four_digits(value, text):
    assert number_text(value) == text


def test_each_step_is_timed_and_those_that_warm_up_are_not_counted(now, monkeypatch):
    class Run:
        def training_step(self, criterion, runtime, num_parts):
            return num_parts

    def epoch(run, compute, loader):
        assert compute == 1
        for seconds, _batch in zip((9.0, 8.0, 1.0, 2.0), loader):
            now[0] += seconds
        assert next(loader, None) is None

    monkeypatch.setattr(parts, "train_one_epoch", epoch)
    batch = data.random_batch((4, 2, 8, 8), 2, 10)
    assert batch.clips.shape == (4, 2, 3, 8, 8) and batch.pids[0] == batch.pids[1] != batch.pids[2] == batch.pids[3]
    runtime = Runtime(CPU, None, None)
    assert parts.step_seconds(Run(), None, batch, runtime, 1, warm_up=2, steps=2) == [1.0, 2.0]


def test_the_loader_goes_round_its_first_batches_and_what_was_ready_is_not_counted(now, monkeypatch):
    here = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: here[0])

    class Sampler:
        batches: list = []

        def set_epoch(self, epoch):
            self.batches = [f"{epoch}a", f"{epoch}b"]

    class Loader:
        batch_sampler, num_workers, prefetch_factor, seen = Sampler(), 1, 2, []

        def __iter__(self):
            for batch in self.batch_sampler.batches:
                self.seen.append(batch)
                here[0] += 0.5
                now[0] += 2.0 if len(self.seen) > 3 + 4 else 50.0  # a round of 3, then 2 in the queue and 2 more
                yield ClipBatch(torch.empty(2, 5, 1), None, None)

    assert parts.training_loader_rate(Loader(), 3, seconds=6.0) == (3 * 10 / 6, 3 * 10 / 1.5)
    assert Loader.seen == (["0a", "0b", "1a"] * 4)[: 3 + 4 + 3]


def test_least_seconds_warms_up_and_takes_the_best(now):
    seconds = iter((99.0, 3.0, 2.0, 7.0))
    assert limits.least_seconds(lambda: operator.setitem(now, 0, now[0] + next(seconds)), CPU, 3) == 2.0
    assert list(seconds) == []


def test_rates_are_work_by_seconds(monkeypatch):
    monkeypatch.setattr(limits, "least_seconds", lambda work, device, repeats: work() is None or 0.5)
    assert limits.matmul_rate(8, Runtime(CPU, None, torch.nn.Identity()), 3) == 2 * 8**3 / 0.5
    assert limits.copy_rate(100, CPU, 3) == 2 * 100 / 0.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_decode_rate_decodes_every_frame(kind, now, monkeypatch):
    frames, decoded, decode = [], [], limits._decode
    for side in (16, 24):
        file = BytesIO()
        Image.fromarray(np.full((side, 8, 3), (200, 100, 50), np.uint8)).save(file, kind)
        frames.append(file.getvalue())

    def watched(content, buffer):
        decode(content, buffer)
        decoded.append((content, buffer[:3].tolist()))
        now[0] += 0.25

    monkeypatch.setattr(limits, "_decode", watched)
    assert limits.decode_rate(frames, 2) == 4
    assert [content for content, _ in decoded] == frames * 3  # one round is not timed
    if kind == "JPEG":  # into the buffer; what a JPEG of one colour may differ by
        assert all(np.abs(np.subtract(pixel, (200, 100, 50))).max() < 4 for _, pixel in decoded)


def test_flops_are_those_of_the_formulas():
    tokens, width, embed, frames, clips = 129, 768, 512, 8, 2
    block = 12 * width * width * tokens + 2 * tokens * tokens * width
    encoder = 12 * block + tokens * width * embed + 128 * width * 3 * 16 * 16
    temporal = 12 * width * width * (tokens + 1) + 2 * (tokens + 1) ** 2 * width
    temporal += width * width + 4 * width * width + 2 * frames * width
    cfg = load_cfg()
    with torch.device("meta"):
        model = build_model(cfg, 625, 6, pretrained=False).eval()
    shape = (clips, frames, 256, 128)
    memory_pass = parts.pass_flops(lambda batch, _camids: model.encode_memory(batch), shape)
    assert memory_pass == pytest.approx(2 * clips * frames * encoder, rel=1e-6)
    dense = parts.pass_flops(model.embed, shape)
    assert dense == pytest.approx(2 * clips * frames * (encoder + temporal), rel=1e-6)
    step = parts.training_flops(model, build_criterion(cfg), shape, memory=True)
    assert 2.9 * dense < step < 3.3 * dense  # backward twice the forward pass; SSP and classifiers on top


def test_clusters_are_found_and_random_features_are_not():
    scores = {}
    for kind in ("clusters", "random"):
        given = data.ranking_input(kind, 60, 400, 64)
        for feats in given[:2]:
            np.testing.assert_allclose(np.linalg.norm(feats, axis=1), 1, rtol=64 * np.finfo(np.float32).eps)
        np.testing.assert_array_equal(given.q_feats, given.g_feats[:60])
        np.testing.assert_array_equal(given.q_pids, given.g_pids[:60])
        assert (given.q_pids > 0).all() and 0.2 < (given.g_pids[60:] == 0).mean() < 0.4
        scores[kind] = rank_features(*given, own_rows=np.arange(60))["rank1"]
    assert scores["clusters"] > 0.9 and scores["random"] < 0.3


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (50, 15), (5, 1)])
def test_the_textbook_s_re_ranking_gives_our_distances(k1, k2):
    given = data.ranking_input("clusters", 40, 300, 64)
    expected = ranking.textbook_rerank(given.q_feats, given.g_feats, k1, k2)
    # Jaccard distances add up the weights of all items twice, in another order.
    bound = 2 * 340 * np.finfo(np.float32).eps
    np.testing.assert_allclose(k_reciprocal_rerank(given.q_feats, given.g_feats, k1, k2), expected, rtol=0, atol=bound)


def test_files_are_spread_over_the_tracklets_and_a_missing_one_is_named(tmp_path):
    for number in range(10):
        (tmp_path / str(number)).write_bytes(b"x" * number)
    tracklets = [Tracklet(tuple(str(tmp_path / str(n)) for n in part), 1, 0) for part in (range(3), range(3, 10))]
    assert [len(content) for content in data.read_bytes(tracklets, 4)] == [0, 2, 4, 6]
    assert len(data.read_bytes(tracklets, 100)) == 10
    (tmp_path / "5").unlink()
    with pytest.raises(InputError, match=f"{tmp_path / '5'} does not exist"):
        data.read_bytes(tracklets, 100)


def test_tracklets_are_taken_again_until_there_are_enough_clips():
    tracklets = [Tracklet(("a",) * count, 1, 0) for count in (9, 1)]
    chosen = data.some_tracklets(tracklets, 4, 6)
    assert [len(t.frames) for t in chosen] == [9, 1, 9]  # clips: 3 + 1 + 3


def test_the_synthetic_set_has_small_jpegs_and_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with data.synthetic_mars(2, 2, (256, 128), 0) as root:
        sizes = [path.stat().st_size for path in root.rglob("*.jpg")]
        assert len(sizes) == 24 * 2  # tracklets: 8 to train with; 8 of people, 4 of nobody and 4 of junk to test with
        assert 4000 < np.mean(sizes) < 6500
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps freed memory for itself")
@pytest.mark.parametrize("held", [0, 30_000_000, 200_000_000])
def test_the_peak_of_memory_is_seen_though_it_is_gone_again_and_freed_memory_lay_ready(held):
    np.ones(30_000_000, np.uint8)  # arrays up to this size now lie in the heap, whose free end is kept
    several = [np.ones(18_000_000, np.uint8) for _ in range(3)]
    del several
    _, peak = with_peak(lambda: len(np.ones(held, np.uint8)), CPU)
    if peak is None:
        pytest.skip("the system cannot reset the peak")
    # The system counts in pages and per processor; what else Python and numpy take is small.
    assert 0.9 * held <= peak < held + 10e6


@pytest.mark.slow
def test_a_process_of_its_own_gives_result_fault_or_death():
    assert in_own_process(operator.add, 1, 2) == 3
    with pytest.raises(ZeroDivisionError):
        in_own_process(operator.truediv, 1, 0)
    with pytest.raises(InputError, match="ended with code 7; the memory may have run out"):
        in_own_process(os._exit, 7)


@pytest.mark.slow
def test_a_ctrl_c_while_the_process_starts_is_not_lost(monkeypatch):
    started, spawn = [], SpawnProcess.start

    def start(process):
        spawn(process)
        started.append(process)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SpawnProcess, "start", start)
    with pytest.raises(KeyboardInterrupt):
        in_own_process(time.sleep, 60)
    assert [process.is_alive() for process in started] == [False]
