"""Single measurements of the benchmark: what is timed, counted and held against what."""

import operator
import os
import platform
import tempfile
import time
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from configs import load_cfg
from datasets.clips.dataset import ClipBatch
from datasets.tracklet import Tracklet
from loss import build_criterion
from model import build_model
from processor.benchmark import data as benchmark_data
from processor.benchmark import limits as benchmark_limits
from processor.benchmark import parts as benchmark_parts
from processor.benchmark import rows as benchmark_rows
from processor.benchmark.limits import PeakMemory, StepClock, steady_rate
from processor.benchmark.process import in_own_process
from processor.benchmark.table import measurement, number_text
from processor.runtime import Runtime
from utils.errors import InputError
from utils.metrics import rank_features

CPU = torch.device("cpu")


def test_lines_of_a_step_by_hand():
    rows = benchmark_rows.step_rows("s", [0.2, 0.1, 0.4], 40, 6e12, 2_000_000, {"matmul": 1e14})
    found = {row.what: (row.value, row.unit, row.limit_value, row.fraction) for row in rows}
    assert found["s, forward and backward"] == (6.0, "TFLOP", None, None)
    assert found["s, median"][0] == pytest.approx(200) and found["s, least"][0] == pytest.approx(100)
    assert found["s, frames"][0] == pytest.approx(200)
    assert found["s, MFU"][0] == pytest.approx(30) and found["s, MFU"][1:3] == ("TFLOP/s", 100)
    assert found["s, MFU"][3] == pytest.approx(0.3)
    assert found["s, peak memory"][:2] == (2.0, "MB")
    assert "s, peak memory" not in {row.what for row in benchmark_rows.step_rows("s", [1], 1, 1, None, {"matmul": 1})}


@pytest.mark.parametrize(
    ("flops", "workers", "limit", "value"),
    [(1e9, 2, "raw decode x 2", 800), (1e9, 0, "raw decode x 1", 400), (4e9, 2, "matmul / FLOP of a frame", 250)],
)
def test_a_pass_is_held_against_the_smaller_limit(flops, workers, limit, value):
    limits = {"decode": 400.0, "matmul": 1e12}
    first, mars = benchmark_rows.pass_rows("dense", "p", 100.0, 8, workers, flops, limits)
    assert (first.limit, first.limit_value, first.fraction) == (limit, value, 100 / value)
    assert mars.what == "p: MARS, 87,000 clips of 8" and mars.value == pytest.approx(87_000 * 8 / 100 / 60)


def test_a_ranking_is_held_against_the_product_and_the_matrix():
    ranked = benchmark_parts.Ranked(3.0, 2.0, 5_000_000)
    time_row, memory_row = benchmark_rows.ranking_rows("rank", "r", ranked, "bare product", 10_000_000, {})
    assert (time_row.limit, time_row.fraction, memory_row.value, memory_row.fraction) == ("bare product", 1.5, 5.0, 0.5)
    assert len(benchmark_rows.ranking_rows("rank", "r", ranked._replace(extra_bytes=None), "b", 1, {})) == 1


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_number_is_no_measurement(value):
    with pytest.raises(ValueError, match="no measured number"):
        measurement("rank", "x", value, "s")
    with pytest.raises(ValueError, match="no measured number"):
        measurement("rank", "x", 1.0, "s", "limit", value)


@pytest.mark.parametrize(
    ("value", "text"), [(1234567.8, "1,234,568"), (999.96, "1000"), (12.3456, "12.35"), (0.0012345, "0.001234")]
)
def test_numbers_have_four_digits(value, text):
    assert number_text(value) == text


def test_step_clock_gives_the_time_of_each_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(benchmark_limits.time, "perf_counter", lambda: now[0])
    clock = StepClock("batch", 3, CPU)
    assert len(clock) == 3
    for batch, seconds in zip(clock, (3.0, 1.0, 2.0, 9.0)):
        assert batch == "batch"
        now[0] += seconds
    assert clock.seconds() == [3.0, 1.0, 2.0]


def test_steps_that_warm_up_are_not_counted(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(benchmark_limits.time, "perf_counter", lambda: now[0])

    def epoch(run, criterion, loader, *_):
        for number, _batch in enumerate(loader):
            now[0] += (9.0, 8.0, 1.0, 2.0)[number]

    monkeypatch.setattr(benchmark_parts, "train_one_epoch", epoch)
    batch = benchmark_data.random_batch((4, 2, 8, 8), 2, 10)
    assert batch.clips.shape == (4, 2, 3, 8, 8) and batch.pids[0] == batch.pids[1] != batch.pids[2] == batch.pids[3]
    runtime = Runtime(CPU, None, None)
    assert benchmark_parts.step_seconds(None, None, batch, runtime, 1, warm_up=2, steps=2) == [1.0, 2.0]


def test_a_steady_rate_leaves_the_first_batches_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(benchmark_limits.time, "perf_counter", lambda: now[0])

    def arrivals(*seconds):
        for number, wait in enumerate(seconds):
            now[0] += wait
            yield number

    # Batches 0 and 1 fill the queues; 2, 3, 4 take 2 s each.
    assert steady_rate(arrivals(50, 1, 2, 2, 2), lambda _: 10, 2, 100) == 5
    # Stops once the time is up: the slow batch after it does not count.
    assert steady_rate(arrivals(50, 1, 2, 2, 2000), lambda _: 10, 2, 4) == 5
    with pytest.raises(ValueError, match="no batch"):
        steady_rate(arrivals(1, 1), lambda _: 10, 2, 4)


def test_the_loader_goes_round_and_round_its_first_batches():
    class Sampler:
        batches: list = []

        def set_epoch(self, epoch):
            self.batches = [f"{epoch}a", f"{epoch}b"]

    class Loader:
        batch_sampler, num_workers, prefetch_factor, seen = Sampler(), 0, None, []

        def __iter__(self):
            for batch in self.batch_sampler.batches:
                self.seen.append(batch)
                time.sleep(0.002)
                yield ClipBatch(torch.empty(2, 3, 1), None, None)

    loader = Loader()
    rate = benchmark_parts.training_loader_rate(loader, 3, 0.05)
    assert 0 < rate <= 6 / 0.002
    assert loader.seen[:9] == ["0a", "0b", "1a"] * 3 and len(loader.seen) < 100


def test_least_seconds_warms_up_and_takes_the_best(monkeypatch):
    times = iter([10.0, 13.0, 20.0, 22.0, 30.0, 37.0])
    calls = []
    monkeypatch.setattr(benchmark_limits.time, "perf_counter", lambda: next(times))
    assert benchmark_limits.least_seconds(lambda: calls.append(1), CPU, 3) == 2.0
    assert len(calls) == 4


def test_rates_are_work_by_seconds(monkeypatch):
    monkeypatch.setattr(benchmark_limits, "least_seconds", lambda work, device, repeats: work() is None or 0.5)
    assert benchmark_limits.matmul_rate(8, CPU, torch.float32, 3) == 2 * 8**3 / 0.5
    assert benchmark_limits.copy_rate(100, CPU, 3) == 2 * 100 / 0.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_decode_rate_decodes_every_frame(kind, monkeypatch):
    frames, decoded = [], []
    for side in (16, 24):
        file = BytesIO()
        Image.fromarray(np.full((side, 8, 3), (200, 100, 50), np.uint8)).save(file, kind)
        frames.append(file.getvalue())
    decode = benchmark_limits._decode

    def watched(data, buffer):
        decode(data, buffer)
        decoded.append((data, buffer[:3].tolist()))

    monkeypatch.setattr(benchmark_limits, "_decode", watched)
    assert benchmark_limits.decode_rate(frames, 0.0) > 0
    assert [data for data, _ in decoded] == frames * 2
    if kind == "JPEG":  # into the buffer
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
    memory_pass = benchmark_parts.pass_flops(benchmark_parts.memory_encoder(model), shape)
    assert memory_pass == pytest.approx(2 * clips * frames * encoder, rel=1e-6)
    dense = benchmark_parts.pass_flops(model.embed, shape)
    assert dense == pytest.approx(2 * clips * frames * (encoder + temporal), rel=1e-6)
    step = benchmark_parts.training_flops(model, build_criterion(cfg), shape, memory=True)
    assert 2.9 * dense < step < 3.3 * dense  # backward twice the forward pass; SSP and classifiers on top


def test_clusters_are_found_and_random_features_are_not():
    scores = {}
    for kind in ("clusters", "random"):
        given = benchmark_data.ranking_input(kind, 60, 400, 64)
        for feats in given[:2]:
            np.testing.assert_allclose(np.linalg.norm(feats, axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(given.q_feats, given.g_feats[:60])
        np.testing.assert_array_equal(given.q_pids, given.g_pids[:60])
        assert (given.q_pids > 0).all() and 0.2 < (given.g_pids[60:] == 0).mean() < 0.4
        scores[kind] = rank_features(*given, own_rows=np.arange(60))["rank1"]
    assert scores["clusters"] > 0.9 and scores["random"] < 0.3


def test_files_are_spread_over_the_tracklets_and_a_missing_one_is_named(tmp_path):
    for number in range(10):
        (tmp_path / str(number)).write_bytes(b"x" * number)
    tracklets = [Tracklet(tuple(str(tmp_path / str(n)) for n in part), 1, 0) for part in (range(3), range(3, 10))]
    assert [len(content) for content in benchmark_data.read_bytes(tracklets, 4)] == [0, 2, 4, 6]
    assert len(benchmark_data.read_bytes(tracklets, 100)) == 10
    (tmp_path / "5").unlink()
    with pytest.raises(InputError, match=f"{tmp_path / '5'} does not exist"):
        benchmark_data.read_bytes(tracklets, 100)


def test_tracklets_are_taken_again_until_there_are_enough_clips():
    tracklets = [Tracklet(("a",) * count, 1, 0) for count in (9, 1)]
    chosen = benchmark_data.some_tracklets(tracklets, 4, 6)
    assert [len(t.frames) for t in chosen] == [9, 1, 9]  # clips: 3 + 1 + 3


def test_the_synthetic_set_has_small_jpegs_and_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with benchmark_data.synthetic_mars(2, 2, (256, 128), 0) as root:
        sizes = [path.stat().st_size for path in root.rglob("*.jpg")]
        assert len(sizes) == 24 * 2  # tracklets: 8 to train with; 8 of people, 4 of nobody and 4 of junk to test with
        assert 4000 < np.mean(sizes) < 6500
    assert list(tmp_path.iterdir()) == []


def test_peak_memory_sees_what_is_gone_again():
    with PeakMemory(CPU) as peak:
        np.ones(200_000_000, np.uint8)
    if peak.bytes is None:
        pytest.skip("the system cannot reset the peak")
    assert 190e6 < peak.bytes < 240e6
    with PeakMemory(CPU) as peak:
        pass
    assert peak.bytes < 10e6


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps freed memory for itself")
def test_peak_memory_is_not_hidden_by_what_was_freed_before():
    np.ones(30_000_000, np.uint8)  # arrays up to this size now lie in the heap, whose free end is kept up to 60 MB
    several = [np.ones(18_000_000, np.uint8) for _ in range(3)]
    del several
    with PeakMemory(CPU) as peak:
        np.ones(50_000_000, np.uint8)
    if peak.bytes is None:
        pytest.skip("the system cannot reset the peak")
    assert 45e6 < peak.bytes < 70e6


@pytest.mark.slow
def test_a_process_of_its_own_gives_result_fault_or_death():
    assert in_own_process(operator.add, 1, 2) == 3
    with pytest.raises(ZeroDivisionError):
        in_own_process(operator.truediv, 1, 0)
    with pytest.raises(InputError, match="ended with code 7; the memory may have run out"):
        in_own_process(os._exit, 7)


@pytest.mark.parametrize(("workers", "per_core"), [(0, 3660.0), (3, 1220.0)])
def test_a_loader_is_held_against_decoding_and_on_such_frames_against_the_release(workers, per_core):
    rate, core = benchmark_rows.loader_rows(workers, 3660.0, True, {"decode": 7320.0})
    assert (rate.value, rate.limit_value) == (3660.0, 7320.0 * max(1, workers))
    assert (core.value, core.limit_value, core.fraction) == (per_core, 1220, per_core / 1220)
    assert benchmark_rows.loader_rows(workers, 3660.0, False, {"decode": 7320.0})[1].limit_value is None
