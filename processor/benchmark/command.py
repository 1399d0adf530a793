"""How fast each part of a run is on this machine, beside what the machine could do, as one table.

python -m processor.benchmark [--config_file F] [--parts loader,step,memory,dense,rank,rerank] [--json OUT] [--full]
[KEY VALUE ...]

Without a data set (DATASETS.ROOT_DIR as it is by default) a synthetic one is drawn and removed again. The sizes suit
two CPU cores; --full takes those of the config and of MARS, which want a GPU.
"""

import argparse
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from configs import ConfigError, get_cfg, load_cfg
from configs.command import CommandParser, run_command
from datasets import build_test_loader, build_train_loader, check_frames_present, configured_splits
from datasets.frames import FrameSource, frame_source
from datasets.tracklet import ReIDSplits, Tracklet
from loss import build_criterion
from model import build_model, check_model
from model.compiled import check_compiler, compile_clip_features
from model.tfclip import TFCLIP
from processor.benchmark import parts, rows
from processor.benchmark.data import random_batch, random_memory, read_bytes, some_tracklets, synthetic_mars
from processor.benchmark.limits import PeakMemory, copy_rate, decode_rate, matmul_rate
from processor.benchmark.machine import describe_machine, usable_cores
from processor.benchmark.process import in_own_process
from processor.benchmark.sizes import FULL, REDUCED, Sizes
from processor.benchmark.table import Measurement, check_json, table, write_json
from processor.runtime import Runtime
from processor.training import RunState
from solver import build_lr_schedule, build_optimizer
from utils.errors import InputError

logger = logging.getLogger(__name__)

_NO_DATA = get_cfg().DATASETS.ROOT_DIR
_RELEASE_SIZE = [256, 128]  # of the frames that the release's loader was measured with
_CLASSES, _CAMERAS = 625, 6  # of MARS, of step and passes
_REPEATS = 5  # of matrix product and copy
_RE_RANKINGS = ((20, 6), (50, 15))  # k1, k2: textbook, release


# What a part has measured -> its lines, once the limits are known.
Lines = Callable[[Mapping[str, float]], list[Measurement]]


@dataclass
class Bench:
    """What all parts share, and what they have measured so far."""

    cfg: CfgNode  # with the data set that is measured, and no more loader processes than cores
    sizes: Sizes
    runtime: Runtime
    splits: ReIDSplits | None = None
    drawn: bool = False  # whether the data are synthetic
    encoded: Sequence[bytes] = ()  # files of training frames
    limits: dict[str, float] = field(default_factory=dict)  # the best of all times they were measured
    lines: list[Lines] = field(default_factory=list)

    @property
    def source(self) -> FrameSource:
        """Where the frames of the splits come from."""
        return frame_source(self.splits.pack, self.splits.root)


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    return run_command(lambda: _run(_parse(argv), argv))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser("How fast each part of a run is on this machine.")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}; default all")
    parser.add_argument("--json", type=Path, help="file that the numbers are also written to")
    parser.add_argument("--full", action="store_true", help="sizes of the config and of MARS, for a GPU")
    arguments = parser.parse(argv)
    arguments.parts = [part for text in arguments.parts.split(",") if (part := text.strip())]
    for part in arguments.parts or [""]:
        if part not in PARTS:
            raise ConfigError(f"--parts names '{part}'; it must be of {', '.join(PARTS)}, with commas between")
    if arguments.json is not None:
        check_json(arguments.json)
    return arguments


def _run(arguments: argparse.Namespace, argv: Sequence[str]) -> None:
    cfg = load_cfg(arguments.config_file, arguments.opts)
    check_model(cfg)
    bench = Bench(_benchmark_cfg(cfg), FULL if arguments.full else REDUCED, _runtime(cfg))
    header = _header(bench, argv, arguments)
    logger.info("%s", "\n".join(f"{name}: {value}" for name, value in header.items()))
    with _data(bench, arguments.parts):
        logger.info("measuring limits")
        _measure_limits(bench, arguments.parts)
        for name in [part for part in PARTS if part in arguments.parts]:
            logger.info("measuring %s", name)
            PARTS[name](bench)
            _measure_limits(bench, [name])  # again: other programs come and go
    found = rows.limit_rows(bench.limits, bench.runtime.precision)
    found += [row for lines in bench.lines for row in lines(bench.limits)]
    logger.info("%s", table(found))
    if arguments.json is not None:
        write_json(arguments.json, header, found)
        logger.info("wrote %s", arguments.json)


def _header(bench: Bench, argv: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Command, machine, sizes and data, as table and JSON name them."""
    command = shlex.join(["python", "-m", "processor.benchmark", *argv])
    data = "synthetic" if bench.cfg.DATASETS.ROOT_DIR == _NO_DATA else bench.cfg.DATASETS.ROOT_DIR
    data = data if _OF_DATA & set(arguments.parts) else "none read"
    sizes = {"sizes": "full" if arguments.full else "reduced", "data": data}
    return {"command": command} | describe_machine(bench.runtime.device, bench.runtime.dtype) | sizes


def _benchmark_cfg(cfg: CfgNode) -> CfgNode:
    """One split of the data, and at most a loader process per core."""
    one = cfg.clone()
    one.defrost()
    one.DATALOADER.NUM_WORKERS = min(cfg.DATALOADER.NUM_WORKERS, usable_cores())
    one.DATASETS.SPLIT = cfg.DATASETS.SPLIT.replace("all", "0")
    return one


def _network_cfg(bench: Bench) -> CfgNode:
    """The config of step and passes: images, clips and batches no larger than the sizes say."""
    one, sizes = bench.cfg.clone(), bench.sizes
    if sizes.image is not None:
        one.INPUT.SIZE_TRAIN = one.INPUT.SIZE_TEST = [min(pair) for pair in zip(one.INPUT.SIZE_TRAIN, sizes.image)]
    if sizes.clip_frames is not None:
        one.INPUT.SEQ_LEN = min(one.INPUT.SEQ_LEN, sizes.clip_frames)
    if sizes.batch is not None:
        most, most_each = sizes.batch
        identities = min(one.SOLVER.IMS_PER_BATCH // one.DATALOADER.NUM_INSTANCE, most)
        one.DATALOADER.NUM_INSTANCE = min(one.DATALOADER.NUM_INSTANCE, most_each)
        one.SOLVER.IMS_PER_BATCH = identities * one.DATALOADER.NUM_INSTANCE
    if sizes.frames_per_batch is not None:
        one.TEST.FRAMES_PER_BATCH = min(one.TEST.FRAMES_PER_BATCH, sizes.frames_per_batch)
    return one


@contextmanager
def _data(bench: Bench, names: Sequence[str]) -> Iterator[None]:
    """The splits that are measured, where a part asks for them; a synthetic set is gone afterwards."""
    cfg, size, wanted = bench.cfg, bench.cfg.INPUT.SIZE_TRAIN, _OF_DATA & set(names)
    with ExitStack() as stack:
        if wanted and cfg.DATASETS.ROOT_DIR == _NO_DATA:
            identities = max(bench.sizes.identities, cfg.SOLVER.IMS_PER_BATCH // cfg.DATALOADER.NUM_INSTANCE)
            workers = usable_cores() if size[0] > 64 else 0  # starting them takes a while
            root = stack.enter_context(synthetic_mars(identities, cfg.INPUT.SEQ_LEN, size, workers))
            cfg.DATASETS = get_cfg().DATASETS
            cfg.DATASETS.ROOT_DIR = str(root)
            bench.drawn = True
        if wanted:
            bench.splits = configured_splits(cfg)
            check_frames_present(bench.splits)
        yield


def _measure_limits(bench: Bench, names: Sequence[str]) -> None:
    """What the lines of these parts are held against; of a limit that is known already the better figure stays."""
    sizes, device = bench.sizes, bench.runtime.device
    larger = 4 if device.type == "cuda" else 1
    found = {"copy": copy_rate(sizes.copy_bytes * larger, device, _REPEATS)}
    if _OF_DATA & set(names):
        bench.encoded = bench.encoded or read_bytes(bench.splits.train, sizes.decode_frames, bench.source)
        found["decode"] = decode_rate(bench.encoded, sizes.decode_seconds)
    if _OF_NETWORK & set(names):
        dtype = bench.runtime.dtype or torch.float32
        found["matmul"] = matmul_rate(sizes.matmul_side * larger, device, dtype, _REPEATS)
    bench.limits |= {name: max(value, bench.limits.get(name, 0.0)) for name, value in found.items()}


def _measure_loader(bench: Bench) -> None:
    cfg, threads = bench.cfg.clone(), torch.get_num_threads()
    like_release = bench.drawn and list(cfg.INPUT.SIZE_TRAIN) == _RELEASE_SIZE
    for workers in dict.fromkeys((0, cfg.DATALOADER.NUM_WORKERS)):
        cfg.DATALOADER.NUM_WORKERS = workers
        loader = build_train_loader(cfg, bench.splits)
        rates = []
        for _ in range(bench.sizes.loader_rounds):
            torch.set_num_threads(threads if workers else 1)  # in this process one core is to be one core
            try:
                rates.append(parts.training_loader_rate(loader, bench.sizes.loader_batches, bench.sizes.loader_seconds))
            finally:
                torch.set_num_threads(threads)
            _measure_limits(bench, ["loader"])  # the best of as many rounds, in turn
        bench.lines.append(partial(rows.loader_rows, workers, max(rates), like_release))


def _measure_step(bench: Bench) -> None:
    cfg, sizes = _network_cfg(bench), bench.sizes
    clips, frames, height, width = _batch_shape(cfg)
    flops = parts.training_flops(_meta_model(cfg), build_criterion(cfg), _batch_shape(cfg), cfg.MODEL.MEMORY != "none")
    for compiled in (False, True) if sizes.both_compiled else (cfg.SOLVER.COMPILE,):
        try:
            seconds, peak = in_own_process(_time_steps, cfg, sizes, compiled)
        except InputError as error:
            if not compiled or cfg.SOLVER.COMPILE:
                raise
            logger.warning("the compiled step is left out: %s", error.line)
            continue
        name = f"{clips}x{frames} at {height}x{width}{', compiled' if compiled else ''}"
        bench.lines.append(partial(rows.step_rows, name, seconds, clips * frames, flops, peak))


def _time_steps(cfg: CfgNode, sizes: Sizes, compiled: bool) -> parts.Steps:
    """Seconds of each step, and the peak of memory from before the model was built; for a process of its own."""
    runtime = _runtime(cfg)
    device = runtime.device
    if compiled:
        check_compiler(device)
    torch.manual_seed(cfg.SOLVER.SEED)
    with PeakMemory(device) as peak:
        model = build_model(cfg, _CLASSES, _CAMERAS, pretrained=False).to(device)
        optimizer = build_optimizer(cfg, model)
        run = RunState(model, optimizer, build_lr_schedule(cfg, optimizer), runtime.grad_scaler())
        if compiled:
            run.clip_features = compile_clip_features(model)
        if cfg.MODEL.MEMORY != "none":
            run.memory = random_memory(_CLASSES, model.encoder.embed_width).to(device)  # (C, E)
        batch = random_batch(_batch_shape(cfg), cfg.DATALOADER.NUM_INSTANCE, _CLASSES)
        seconds = parts.step_seconds(
            run, build_criterion(cfg), batch, runtime, cfg.SOLVER.ACCUM_STEPS, sizes.warm_up, sizes.steps
        )
    return parts.Steps(seconds, peak.bytes)


def _measure_pass(bench: Bench, part: str, tracklets: Sequence[Tracklet], encoder: Callable) -> None:
    """A pass over tracklets, reading and decoding included, of `encoder(model)` with random weights."""
    cfg, runtime = _network_cfg(bench), bench.runtime
    frames, size, cameras = cfg.INPUT.SEQ_LEN, cfg.INPUT.SIZE_TEST, bench.splits.num_cameras
    frame_flops = parts.pass_flops(encoder(_meta_model(cfg, cameras).eval()), (1, frames, *size)) / frames
    model = build_model(cfg, _CLASSES, cameras, pretrained=False).to(runtime.device).eval()
    few, many = (some_tracklets(tracklets, frames, clips) for clips in (1, bench.sizes.pass_clips))
    passes = [(build_test_loader(cfg, chosen, "dense", bench.source), len(chosen)) for chosen in (few, many)]
    rate = parts.tracklet_pass_rate(encoder(model), passes, runtime, part)
    name = f"clips of {frames} at {size[0]}x{size[1]}"
    bench.lines.append(partial(rows.pass_rows, part, name, rate, frames, cfg.DATALOADER.NUM_WORKERS, frame_flops))


def _measure_rank(bench: Bench) -> None:
    sizes, product = bench.sizes.ranking, "bare product"
    for kind in ("clusters", "random"):
        ranked = in_own_process(parts.ranking_seconds, kind, sizes, bench.runtime.device, bench.sizes.ranking_repeats)
        name = f"{kind}, {sizes[0]:,} x {sizes[1]:,} x {sizes[2]}"
        bench.lines.append(partial(rows.ranking_rows, "rank", name, ranked, product, 4 * sizes[0] * sizes[1]))


def _measure_rerank(bench: Bench) -> None:
    sizes, product = bench.sizes.ranking, "product of all with all"
    count = sizes[0] + sizes[1]
    for k1, k2 in _RE_RANKINGS:
        ranked = in_own_process(parts.re_ranking_seconds, sizes, k1, k2, bench.sizes.re_ranking_repeats)
        name = f"k1 {k1}, k2 {k2}, {count:,} items"
        bench.lines.append(partial(rows.ranking_rows, "rerank", name, ranked, product, 4 * count**2))


def _meta_model(cfg: CfgNode, num_cameras: int = _CAMERAS) -> TFCLIP:
    """The network without weights, to count what it computes."""
    with torch.device("meta"):
        return build_model(cfg, _CLASSES, num_cameras, pretrained=False)


def _batch_shape(cfg: CfgNode) -> tuple[int, ...]:
    """(B, T, H, W) of a training batch."""
    return (cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.SEQ_LEN, *cfg.INPUT.SIZE_TRAIN)


def _runtime(cfg: CfgNode) -> Runtime:
    return Runtime.choose(cfg.SOLVER.AMP, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)


PARTS: dict[str, Callable[[Bench], None]] = {
    "loader": _measure_loader,
    "step": _measure_step,
    "memory": lambda bench: _measure_pass(bench, "memory", bench.splits.train, parts.memory_encoder),
    "dense": lambda bench: _measure_pass(bench, "dense", bench.splits.query + bench.splits.gallery, parts.embedder),
    "rank": _measure_rank,
    "rerank": _measure_rerank,
}
_OF_DATA = {"loader", "memory", "dense"}  # parts that read frames
_OF_NETWORK = {"step", "memory", "dense"}  # parts that compute with the network


