"""What loader, training step and passes over tracklets take.

B clips, T frames, H, W pixels, C identities, E projection width, F features.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from datasets.clips import ClipBatch
from loss.criterion import Criterion
from model.tfclip import TFCLIP
from processor.benchmark.limits import synchronize
from processor.benchmark.table import Limit, Measurement
from processor.evaluation import means_of_loader
from processor.runtime import Runtime
from processor.training import RunState, train_one_epoch

# Of MARS: steps of an epoch (P 4, K 4), frames to train with, dense clips of the test.
_EPOCH_STEPS, _TRAIN_FRAMES, _TEST_CLIPS = 460, 509_914, 87_000
_RELEASE_LOADER = 1220  # training frames/s on a core of the release's pipeline, on such files; not measured here
_SKIPPED_BATCHES = 2  # besides those that wait in the workers' queues
_MANY_BATCHES = 10_000  # more than there is time for

Encode = Callable[[Tensor, Tensor], Tensor]  # clips (B, T, 3, H, W), cameras (B,) -> features (B, F)


def _decode_limit(workers: int) -> Limit:
    """What the cores at work decode together, of a loader with `workers` processes or, with 0, none."""
    cores = max(1, workers)
    return Limit(f"raw decode x {cores}", cores, "decode")


def loader_lines(workers: int, rate: float, received: float, like_release: bool) -> list[Measurement]:
    """A train loader with `workers` processes, 0 for none, of `rate` frames/s.

    The process that gets the batches takes a second of its core's time for `received` frames. `like_release` says that
    the frames are such as the release's rate is known for.
    """
    where = f"{workers} worker{'s' if workers > 1 else ''}" if workers else "in this process"
    release = [Limit("release (known, not measured)", _RELEASE_LOADER)] if like_release else []
    return [
        Measurement("loader", where, rate, "frames/s", [_decode_limit(workers)]),
        Measurement("loader", f"{where}, per core", rate / max(1, workers), "frames/s/core", release),
        *([Measurement("loader", f"{where}, receiver", 1e6 / received, "us of a core/frame")] if workers else []),
    ]


def training_loader_rate(loader: DataLoader, batches: int, seconds: float) -> tuple[float, float]:
    """Frames per second of a train loader that goes round its first `batches` batches again and again.

    Of time, and of what this process takes of its cores. One round before that fills the page cache. Counted from when
    what the workers had ready is used up, for `seconds`.
    """
    sampler = loader.batch_sampler
    drawn: list = []
    for epoch in range(batches):  # an epoch has one batch or more
        sampler.set_epoch(epoch)
        drawn += sampler.batches
    sampler.batches = drawn[:batches]
    for _ in loader:
        pass
    sampler.batches = drawn[:batches] * (1 + _MANY_BATCHES // batches)
    skipped = _SKIPPED_BATCHES + loader.num_workers * (loader.prefetch_factor or 0)
    frames, start, last, start_here = 0, 0.0, 0.0, 0.0
    for number, batch in enumerate(loader, start=1):
        last = time.perf_counter()
        if number <= skipped:
            start, start_here = last, time.process_time()
        else:
            frames += batch.clips.shape[0] * batch.clips.shape[1]
            if last - start >= seconds:
                break
    return frames / (last - start), frames / (time.process_time() - start_here)


def step_lines(
    name: str, seconds: Sequence[float], frames: int, flops: float, peak: int | None, memory: str, matmul: str
) -> list[Measurement]:
    """Training steps of `frames` frames and `flops` FLOP, in `seconds` each; `peak` bytes of `memory`, where known.

    `matmul` names the machine's limit on products of matrices.
    """
    median = statistics.median(seconds)
    lines = [
        ("forward and backward", flops / 1e12, "TFLOP"),
        ("median", median * 1000, "ms"),
        ("least", min(seconds) * 1000, "ms"),
        ("frames", frames / median, "frames/s"),
        ("MFU", flops / median / 1e12, "TFLOP/s", [Limit("matmul", 1e-12, matmul)]),
        (f"epoch of {_EPOCH_STEPS} steps", median * _EPOCH_STEPS / 60, "min"),
        *([(f"peak {memory}", peak / 1e6, "MB")] if peak else []),
    ]
    return [Measurement("step", f"{name}, {what}", *rest) for what, *rest in lines]


def step_seconds(
    run: RunState, criterion: Criterion, batch: ClipBatch, runtime: Runtime, num_parts: int, warm_up: int, steps: int
) -> list[float]:
    """Seconds of each of `steps` training steps on the same batch, after `warm_up` steps that are not counted.

    From one batch to the next, and from the last one to the end; on a GPU by its own clock, so that nothing waits.
    """
    on_gpu = runtime.device.type == "cuda"
    marks: list = []

    def mark() -> None:
        if on_gpu:
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            marks.append(time.perf_counter())

    def batches() -> Iterator[ClipBatch]:
        sent = ClipBatch(*(tensor.pin_memory() for tensor in batch)) if on_gpu else batch
        for _ in range(warm_up + steps):
            mark()
            yield sent
        mark()

    train_one_epoch(run, run.training_step(criterion, runtime, num_parts), batches())
    synchronize(runtime.device)
    pairs = zip(marks[warm_up:], marks[warm_up + 1 :])
    return [before.elapsed_time(after) / 1000 if on_gpu else after - before for before, after in pairs]


def training_flops(model: TFCLIP, criterion: Criterion, batch_shape: Sequence[int], memory: bool) -> int:
    """FLOP of forward and backward pass of a batch (B, T, H, W), counted on a model on the meta device.

    A multiply-add is two. What recomputing adds (SOLVER.ACCUM_STEPS, MODEL.GRAD_CHECKPOINT) is not counted.
    """
    model.train()
    clips, camids = _meta_batch(batch_shape)
    vectors_CE = torch.empty(model.num_classes, model.encoder.embed_width, device="meta") if memory else None
    with FlopCounterMode(display=False) as counter:
        output = model(clips, camids, vectors_CE)
        criterion(output, torch.zeros_like(camids))["total"].backward()
    return counter.get_total_flops()


def pass_flops(encode: Encode, batch_shape: Sequence[int]) -> int:
    """FLOP of `encode` of a batch (B, T, H, W), counted on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encode(*_meta_batch(batch_shape))
    return counter.get_total_flops()


def _meta_batch(batch_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Clips (B, T, 3, H, W) and cameras (B,) without values."""
    clips, frames, height, width = batch_shape
    empty = torch.empty(clips, frames, 3, height, width, device="meta")
    return empty, torch.zeros(clips, dtype=torch.long, device="meta")


def tracklet_pass_rate(encode: Encode, passes: Sequence[tuple[DataLoader, int]], runtime: Runtime, title: str) -> float:
    """Frames per second of `encode` in a pass over a test loader: reading, decoding, the start of workers included.

    `passes` are two, a test loader and its number of tracklets each; the first one warms up. Frames that fill up a clip
    count.
    """
    frames = []

    def counted(clips: Tensor, camids: Tensor) -> Tensor:
        frames.append(clips.shape[0] * clips.shape[1])
        return encode(clips, camids)

    (warm_loader, warm), (loader, timed) = passes
    means_of_loader(encode, warm_loader, warm, runtime, f"{title}, warming up")
    start = time.perf_counter()
    means_of_loader(counted, loader, timed, runtime, title).cpu()
    return sum(frames) / (time.perf_counter() - start)


def pass_lines(
    part: str, name: str, rate: float, clip_frames: int, workers: int, frame_flops: float, matmul: str
) -> list[Measurement]:
    """A pass ('memory' or 'dense') of `rate` frames/s and `frame_flops` FLOP per frame; how long MARS would take.

    `matmul` names the machine's limit on products of matrices.
    """
    if part == "memory":
        mars, frames = f"{_TRAIN_FRAMES:,} frames", _TRAIN_FRAMES
    else:
        mars, frames = f"{_TEST_CLIPS:,} clips of {clip_frames}", _TEST_CLIPS * clip_frames
    limits = [_decode_limit(workers), Limit("matmul / FLOP of a frame", 1 / frame_flops, matmul)]
    return [
        Measurement(part, name, rate, "frames/s", limits),
        Measurement(part, f"{name}: MARS, {mars}", frames / rate / 60, "min"),
    ]
