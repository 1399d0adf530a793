"""Measured numbers of a part -> its lines of the table, and what each is held against."""

from collections.abc import Mapping, Sequence

from processor.benchmark.limits import middle
from processor.benchmark.parts import Ranked
from processor.benchmark.table import Measurement, measurement

# Of MARS: steps of an epoch (P 4, K 4), frames to train with, dense clips of the test.
_EPOCH_STEPS, _TRAIN_FRAMES, _TEST_CLIPS = 460, 509_914, 87_000
_RELEASE_LOADER = 1220  # training frames/s on a core of the release's pipeline, on such files; not measured here


def limit_rows(limits: Mapping[str, float], precision: str) -> list[Measurement]:
    """`limits` that were measured, of 'decode' (frames/s), 'matmul' (FLOP/s) and 'copy' (bytes/s)."""
    kinds = {
        "decode": ("raw decode, one thread", 1, "frames/s"),
        "matmul": (f"matmul, {precision}", 1e12, "TFLOP/s"),
        "copy": ("memory bandwidth, copy", 1e9, "GB/s"),
    }
    return [
        measurement("limits", what, limits[name] / scale, unit)
        for name, (what, scale, unit) in kinds.items()
        if name in limits
    ]


def loader_rows(workers: int, rate: float, like_release: bool, limits: Mapping[str, float]) -> list[Measurement]:
    """Train loader with `workers` processes, 0 for none: frames/s, against the raw decode rate of one thread.

    `like_release` says that the frames are such as the release's rate is known for.
    """
    cores = max(1, workers)
    where = f"{workers} worker{'s' if workers > 1 else ''}" if workers else "in this process"
    release = ("release (known, not measured)", _RELEASE_LOADER) if like_release else ()
    return [
        measurement("loader", where, rate, "frames/s", f"raw decode x {cores}", limits["decode"] * cores),
        measurement("loader", f"{where}, per core", rate / cores, "frames/s/core", *release),
    ]


def step_rows(
    name: str, seconds: Sequence[float], frames: int, flops: float, peak: int | None, limits: Mapping[str, float]
) -> list[Measurement]:
    """Training steps of `frames` frames and `flops` FLOP, in `seconds` each; peak memory in bytes where known."""
    median = middle(seconds)
    rows = [
        measurement("step", f"{name}, forward and backward", flops / 1e12, "TFLOP"),
        measurement("step", f"{name}, median", median * 1000, "ms"),
        measurement("step", f"{name}, least", min(seconds) * 1000, "ms"),
        measurement("step", f"{name}, frames", frames / median, "frames/s"),
        measurement("step", f"{name}, MFU", flops / median / 1e12, "TFLOP/s", "matmul", limits["matmul"] / 1e12),
        measurement("step", f"{name}, epoch of {_EPOCH_STEPS} steps", median * _EPOCH_STEPS / 60, "min"),
    ]
    return rows + ([measurement("step", f"{name}, peak memory", peak / 1e6, "MB")] if peak else [])


def pass_rows(
    part: str, name: str, rate: float, clip_frames: int, workers: int, frame_flops: float, limits: Mapping[str, float]
) -> list[Measurement]:
    """A pass ('memory' or 'dense') of `rate` frames/s and `frame_flops` FLOP per frame; how long MARS would take."""
    cores = max(1, workers)
    decode, network = limits["decode"] * cores, limits["matmul"] / frame_flops
    limit = (f"raw decode x {cores}", decode) if decode < network else ("matmul / FLOP of a frame", network)
    if part == "memory":
        mars, seconds = f"MARS, {_TRAIN_FRAMES:,} frames", _TRAIN_FRAMES / rate
    else:
        mars, seconds = f"MARS, {_TEST_CLIPS:,} clips of {clip_frames}", _TEST_CLIPS * clip_frames / rate
    return [
        measurement(part, name, rate, "frames/s", *limit),
        measurement(part, f"{name}: {mars}", seconds / 60, "min"),
    ]


def ranking_rows(
    part: str, name: str, ranked: Ranked, product: str, matrix_bytes: int, _limits: Mapping[str, float]
) -> list[Measurement]:
    """A ranking against the bare `product`, and its memory, where known, against a matrix of all the distances."""
    rows = [measurement(part, f"{name}, time", ranked.seconds, "s", product, ranked.product_seconds)]
    if ranked.extra_bytes:
        size = matrix_bytes / 1e6
        rows.append(measurement(part, f"{name}, extra memory", ranked.extra_bytes / 1e6, "MB", "its distances", size))
    return rows
