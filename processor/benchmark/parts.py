"""What each part of a run takes: loader, training step, passes over tracklets, ranking, re-ranking.

B clips, T frames, H, W pixels, C identities, E projection width, Q queries, G gallery items, F features.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import matmul
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from datasets.clips import ClipBatch
from loss.criterion import Criterion
from model.tfclip import TFCLIP
from processor.benchmark.data import RankingInput, ranking_input
from processor.benchmark.limits import PeakMemory, StepClock, least_seconds, steady_rate
from processor.evaluation import tracklet_means
from processor.runtime import Runtime
from processor.training import RunState, train_one_epoch
from utils.metrics import rank_features
from utils.reranking import k_reciprocal_rerank

_SKIPPED_BATCHES = 2  # besides those that wait in the workers' queues
_MANY_BATCHES = 10_000  # more than there is time for
_NO_LOG = 10**9  # steps between two log lines


class Steps(NamedTuple):
    """Training steps one after the other."""

    seconds: list[float]
    peak_bytes: int | None  # over what was held before the model was built; None where it cannot be measured


class Ranked(NamedTuple):
    """Seconds of one kind of ranking, of the bare product of its features, and the memory it took beside them."""

    seconds: float
    product_seconds: float
    extra_bytes: int | None  # None where it cannot be measured


def training_loader_rate(loader: DataLoader, batches: int, seconds: float) -> float:
    """Frames per second of a train loader that goes round its first `batches` batches again and again.

    One round before that fills the page cache. Counted from when what the workers had ready is used up, for `seconds`.
    """
    sampler = loader.batch_sampler
    drawn: list = []
    for epoch in range(batches):  # an epoch has one batch or more
        sampler.set_epoch(epoch)
        drawn += sampler.batches
    drawn = drawn[:batches]
    sampler.batches = drawn
    for _ in loader:
        pass
    sampler.batches = drawn * (1 + _MANY_BATCHES // batches)
    skipped = _SKIPPED_BATCHES + loader.num_workers * (loader.prefetch_factor or 0)
    return steady_rate(loader, lambda batch: batch.clips.shape[0] * batch.clips.shape[1], skipped, seconds)


def step_seconds(
    run: RunState,
    criterion: Criterion,
    batch: ClipBatch,
    runtime: Runtime,
    num_parts: int,
    warm_up: int,
    steps: int,
) -> list[float]:
    """Seconds of each of `steps` training steps on the same batch, after `warm_up` steps that are not counted."""
    if runtime.device.type == "cuda":
        batch = ClipBatch(*(tensor.pin_memory() for tensor in batch))
    clock = StepClock(batch, warm_up + steps, runtime.device)
    train_one_epoch(run, criterion, clock, runtime, 0.0, _NO_LOG, num_parts)
    return clock.seconds()[warm_up:]


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


def pass_flops(encode: Callable[[Tensor, Tensor], Tensor], batch_shape: Sequence[int]) -> int:
    """FLOP of `encode(clips, camids)` of a batch (B, T, H, W), counted on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encode(*_meta_batch(batch_shape))
    return counter.get_total_flops()


def _meta_batch(batch_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Clips (B, T, 3, H, W) and cameras (B,) without values."""
    clips, frames, height, width = batch_shape
    empty = torch.empty(clips, frames, 3, height, width, device="meta")
    return empty, torch.zeros(clips, dtype=torch.long, device="meta")


def tracklet_pass_rate(
    encode: Callable[[Tensor, Tensor], Tensor],
    passes: Sequence[tuple[DataLoader, int]],
    runtime: Runtime,
    title: str,
) -> float:
    """Frames per second of `encode` in a pass over a test loader: reading, decoding, the start of workers included.

    `passes` are two, a test loader and its number of tracklets each; the first one warms up. Frames that fill up a clip
    count.
    """
    (warm_loader, warm), (loader, timed) = passes
    tracklet_means(encode, warm_loader, warm, runtime, f"{title}, warming up")
    counting = _Counting(encode)
    start = time.perf_counter()
    tracklet_means(counting, loader, timed, runtime, title).cpu()
    return counting.frames / (time.perf_counter() - start)


def memory_encoder(model: TFCLIP) -> Callable[[Tensor, Tensor], Tensor]:
    """What the CLIP-Memory pass computes of clips; cameras do not matter to it."""
    return lambda clips, _camids: model.encode_memory(clips)


def embedder(model: TFCLIP) -> Callable[[Tensor, Tensor], Tensor]:
    """What the dense test computes of clips."""
    return model.embed


class _Counting:
    """`encode` that adds up the frames it is given."""

    def __init__(self, encode: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.encode = encode
        self.frames = 0

    def __call__(self, clips: Tensor, camids: Tensor) -> Tensor:
        self.frames += clips.shape[0] * clips.shape[1]
        return self.encode(clips, camids)


def ranking_seconds(kind: str, sizes: Sequence[int], device: torch.device, repeats: int) -> Ranked:
    """CMC and mAP from features of `kind` 'clusters' or 'random', `sizes` (Q, G, F), under MARS' protocol.

    On a GPU the features lie there already, and so does what the bare product is measured with.
    """
    given = ranking_input(kind, *sizes)
    if device.type != "cpu":
        on_device = (torch.from_numpy(feats).to(device) for feats in (given.q_feats, given.g_feats))
        given = given._replace(**dict(zip(("q_feats", "g_feats"), on_device)))
    own_rows = np.arange(len(given.q_pids))  # (Q,) the queries stand in front
    product = least_seconds(partial(matmul, given.q_feats, given.g_feats.T), device, repeats)
    with PeakMemory(device) as peak:
        seconds = least_seconds(lambda: rank_features(*given, own_rows=own_rows), device, repeats)
    return Ranked(seconds, product, peak.bytes)


def re_ranking_seconds(sizes: Sequence[int], k1: int, k2: int, repeats: int) -> Ranked:
    """k-reciprocal re-ranking of clustered features, `sizes` (Q, G, F), against a product of all with all."""
    given, cpu = ranking_input("clusters", *sizes), torch.device("cpu")
    product = _product_of_all(given, cpu, repeats)
    with PeakMemory(cpu) as peak:
        seconds = least_seconds(lambda: k_reciprocal_rerank(given.q_feats, given.g_feats, k1, k2), cpu, repeats)
    return Ranked(seconds, product, peak.bytes)


def _product_of_all(given: RankingInput, device: torch.device, repeats: int) -> float:
    """Seconds; what it holds is freed on the way out."""
    feats = np.concatenate([given.q_feats, given.g_feats])  # (Q + G, F)
    return least_seconds(partial(matmul, feats, feats.T), device, repeats)
