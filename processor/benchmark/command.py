"""How fast each part of a run is on this machine, beside what the machine could do, as one table.

python -m processor.benchmark [--config_file F] [--parts loader,step,memory,dense,rank,rerank] [--json OUT] [--full]
[KEY VALUE ...]

Without a data set (DATASETS.ROOT_DIR as it is by default) a synthetic one is drawn and removed again. The sizes suit
two CPU cores; --full takes those of the config and of MARS, which want a GPU.
"""

import argparse
import logging
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from configs import ConfigError, get_cfg, load_cfg
from configs.command import CommandParser, run_command
from datasets import build_erasing, build_test_loader, build_train_loader, check_frames_present, configured_splits
from datasets.frames import frame_source
from datasets.tracklet import ReIDSplits
from loss import build_criterion
from model import build_model, check_model, pixel_statistics
from model.compiled import check_compiler, compile_clip_features
from model.tfclip import TFCLIP
from processor.benchmark import parts
from processor.benchmark.data import SIZES, random_batch, random_memory, read_bytes, some_tracklets, synthetic_mars
from processor.benchmark.limits import copy_rate, decode_rate, describe_machine, matmul_rate
from processor.benchmark.process import in_own_process, memory_name, with_peak
from processor.benchmark.ranking import ranking, re_ranking
from processor.benchmark.table import Measurement, check_json, table, write_json
from processor.runtime import Runtime
from processor.training import RunState
from solver import build_lr_schedule, build_optimizer
from utils.environment import usable_cores
from utils.errors import InputError

logger = logging.getLogger(__name__)

_NO_DATA = get_cfg().DATASETS.ROOT_DIR
_RELEASE_SIZE = [256, 128]  # of the frames that the release's loader was measured with
_CLASSES, _CAMERAS = 625, 6  # of MARS, of step and passes
_REPEATS = 5  # of a limit's measurement


@dataclass
class Bench:
    """What all parts share."""

    cfg: CfgNode  # with the data set that is measured, and no more loader processes than cores
    sizes: dict[str, Any]  # one column of SIZES
    runtime: Runtime
    drawn: bool  # whether the data are synthetic
    parts: Sequence[str]  # those of PARTS that are measured
    splits: ReIDSplits | None = None
    encoded: Sequence[bytes] = ()  # files of training frames
    limits: dict[str, float] = field(default_factory=dict)  # the best of all times they were measured

    def runtimes(self, part: str) -> list[Runtime]:
        """How a part computes; a pass is also measured as training computes, where that is in another number type."""
        if part == "memory":
            own = self.runtime.with_precision(self.cfg.SOLVER.MEMORY_PRECISION, "SOLVER.MEMORY_PRECISION")
        elif part == "dense":
            own = self.runtime.with_precision(self.cfg.TEST.PRECISION, "TEST.PRECISION")
        else:
            own = self.runtime
        return [own] if own.precision == self.runtime.precision else [own, self.runtime]

    def limits_of(self, part: str) -> list[str]:
        """Names of the limits that a part is held against."""
        kinds = PARTS[part][1]
        products = [_matmul(runtime) for runtime in self.runtimes(part)] if "matmul" in kinds else []
        return ["copy", *(kind for kind in kinds if kind != "matmul"), *products]

    def measure_limits(self, names: Iterable[str]) -> None:
        """Measure the limits of these names; of one that is known already the better figure stays."""
        device = self.runtime.device
        larger = 4 if device.type == "cuda" else 1
        runtimes = {_matmul(runtime): runtime for part in self.parts for runtime in self.runtimes(part)}
        for name in names:
            if name == "decode":
                rate = decode_rate(self.encoded, _REPEATS)
            elif name == "copy":
                rate = copy_rate(self.sizes["copy_bytes"] * larger, device, _REPEATS)
            else:
                rate = matmul_rate(self.sizes["matmul_side"] * larger, runtimes[name], _REPEATS)
            self.limits[name] = max(self.limits.get(name, 0.0), rate)

    def limit_lines(self) -> list[Measurement]:
        """The limits themselves, as lines of the table."""
        kinds = {
            "decode": ("raw decode, one thread", 1, "frames/s"),
            "copy": (f"{memory_name(self.runtime.device)} bandwidth, copy", 1e-9, "GB/s"),
        }
        lines = {name: kinds.get(name, (name, 1e-12, "TFLOP/s")) for name in self.limits}
        return [
            Measurement("limits", what, self.limits[name] * scale, unit) for name, (what, scale, unit) in lines.items()
        ]


def _matmul(runtime: Runtime) -> str:
    """The name of the limit that products of matrices set."""
    return f"matmul, {runtime.precision}"


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    return run_command(lambda: _run(_parse(argv), argv))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser("How fast each part of a run is on this machine.")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}; default all")
    parser.add_argument("--json", type=Path, help="file that the numbers are also written to")
    parser.add_argument("--full", action="store_true", help="sizes of the config and of MARS, for a GPU")
    arguments = parser.parse(argv)
    asked = [part for text in arguments.parts.split(",") if (part := text.strip())]
    for part in asked or [""]:
        if part not in PARTS:
            raise ConfigError(f"--parts names '{part}'; it must be of {', '.join(PARTS)}, with commas between")
    arguments.parts = [part for part in PARTS if part in asked]
    if arguments.json is not None:
        check_json(arguments.json)
    return arguments


def _run(arguments: argparse.Namespace, argv: Sequence[str]) -> None:
    bench = _bench(arguments)
    held_against = {name: bench.limits_of(name) for name in arguments.parts}
    reads_frames = any("decode" in names for names in held_against.values())
    command = {"command": shlex.join(["python", "-m", "processor.benchmark", *argv])}
    data = "synthetic" if bench.drawn else bench.cfg.DATASETS.ROOT_DIR
    sizes = {"sizes": "full" if arguments.full else "reduced", "data": data if reads_frames else "none read"}
    header = command | describe_machine(bench.runtime) | sizes
    logger.info("%s", "\n".join(f"{name}: {value}" for name, value in header.items()))
    found: list[Measurement] = []
    with ExitStack() as stack:
        if reads_frames:
            _open_data(bench, stack)
        logger.info("measuring limits")
        bench.measure_limits(dict.fromkeys(name for names in held_against.values() for name in names))
        for part, names in held_against.items():
            logger.info("measuring %s", part)
            found += PARTS[part][0](bench)
            bench.measure_limits(names)  # again: other programs come and go
    lines = [line.cells(bench.limits) for line in bench.limit_lines() + found]
    logger.info("%s", table(lines))
    if arguments.json is not None:
        write_json(arguments.json, header, lines)
        logger.info("wrote %s", arguments.json)


def _bench(arguments: argparse.Namespace) -> Bench:
    """One split of the data, and at most a loader process per core."""
    cfg = load_cfg(arguments.config_file, arguments.opts)
    check_model(cfg)
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = min(cfg.DATALOADER.NUM_WORKERS, usable_cores())
    cfg.DATASETS.SPLIT = cfg.DATASETS.SPLIT.replace("all", "0")
    sizes = {name: column[arguments.full] for name, column in SIZES.items()}
    return Bench(cfg, sizes, _runtime(cfg), drawn=cfg.DATASETS.ROOT_DIR == _NO_DATA, parts=arguments.parts)


def _runtime(cfg: CfgNode) -> Runtime:
    mean, std, _ = pixel_statistics(cfg)
    return Runtime.choose(cfg.SOLVER.AMP, mean, std)


def _open_data(bench: Bench, stack: ExitStack) -> None:
    """The splits that are measured, and some of their files; a synthetic set is gone with the stack."""
    cfg, size = bench.cfg, bench.cfg.INPUT.SIZE_TRAIN
    if bench.drawn:
        identities = max(bench.sizes["identities"], cfg.SOLVER.IMS_PER_BATCH // cfg.DATALOADER.NUM_INSTANCE)
        workers = usable_cores() if size[0] > 64 else 0  # starting them takes a while
        root = stack.enter_context(synthetic_mars(identities, cfg.INPUT.SEQ_LEN, size, workers))
        cfg.DATASETS = get_cfg().DATASETS
        cfg.DATASETS.ROOT_DIR = str(root)
    bench.splits = configured_splits(cfg)
    check_frames_present(bench.splits)
    source = frame_source(bench.splits.pack, bench.splits.root)
    bench.encoded = read_bytes(bench.splits.train, bench.sizes["decode_frames"], source)


def _network_cfg(bench: Bench) -> CfgNode:
    """The config of step and passes: images, clips and batches no larger than the sizes say."""
    one, sizes = bench.cfg.clone(), bench.sizes
    one.INPUT.SIZE_TRAIN = one.INPUT.SIZE_TEST = [min(pair) for pair in zip(one.INPUT.SIZE_TRAIN, sizes["image"])]
    one.INPUT.SEQ_LEN = min(one.INPUT.SEQ_LEN, sizes["clip_frames"])
    most, most_each = sizes["batch"]
    identities = min(one.SOLVER.IMS_PER_BATCH // one.DATALOADER.NUM_INSTANCE, most)
    one.DATALOADER.NUM_INSTANCE = min(one.DATALOADER.NUM_INSTANCE, most_each)
    one.SOLVER.IMS_PER_BATCH = identities * one.DATALOADER.NUM_INSTANCE
    one.TEST.FRAMES_PER_BATCH = min(one.TEST.FRAMES_PER_BATCH, sizes["frames_per_batch"])
    return one


def _measure_loader(bench: Bench) -> Iterator[Measurement]:
    cfg, sizes, threads = bench.cfg.clone(), bench.sizes, torch.get_num_threads()
    like_release = bench.drawn and list(cfg.INPUT.SIZE_TRAIN) == _RELEASE_SIZE
    for workers in dict.fromkeys((0, cfg.DATALOADER.NUM_WORKERS)):
        cfg.DATALOADER.NUM_WORKERS = workers
        loader = build_train_loader(cfg, bench.splits)
        rates = []
        for _ in range(sizes["loader_rounds"]):
            torch.set_num_threads(threads if workers else 1)  # in this process one core is to be one core
            try:
                rates.append(parts.training_loader_rate(loader, sizes["loader_batches"], sizes["loader_seconds"]))
            finally:
                torch.set_num_threads(threads)
            bench.measure_limits(["decode"])  # the best of as many rounds, in turn
        yield from parts.loader_lines(workers, *map(max, zip(*rates)), like_release)


def _measure_step(bench: Bench) -> Iterator[Measurement]:
    cfg, memory = _network_cfg(bench), memory_name(bench.runtime.device)
    clips, frames, height, width = _batch_shape(cfg)
    flops = parts.training_flops(_meta_model(cfg), build_criterion(cfg), _batch_shape(cfg), cfg.MODEL.MEMORY != "none")
    for compiled in bench.sizes["compiled"] or (cfg.SOLVER.COMPILE,):
        try:
            seconds, peak = in_own_process(_time_steps, cfg, bench.sizes["warm_up"], bench.sizes["steps"], compiled)
        except InputError as error:
            if not compiled or cfg.SOLVER.COMPILE:
                raise
            logger.warning("the compiled step is left out: %s", error.line)
            continue
        name = f"{clips}x{frames} at {height}x{width}{', compiled' if compiled else ''}"
        yield from parts.step_lines(name, seconds, clips * frames, flops, peak, memory, _matmul(bench.runtime))


def _time_steps(cfg: CfgNode, warm_up: int, steps: int, compiled: bool) -> tuple[list[float], int | None]:
    """Seconds of each step, and the peak of memory from before the model was built; for a process of its own."""
    runtime = _runtime(cfg)
    if compiled:
        check_compiler(runtime.device)
    torch.manual_seed(cfg.SOLVER.SEED)

    def work() -> list[float]:
        model = build_model(cfg, _CLASSES, _CAMERAS, pretrained=False).to(runtime.device)
        optimizer = build_optimizer(cfg, model)
        run = RunState(model, optimizer, build_lr_schedule(cfg, optimizer), runtime.grad_scaler())
        run.erase = build_erasing(cfg, runtime.device)
        if compiled:
            run.clip_features = compile_clip_features(model)
        if cfg.MODEL.MEMORY != "none":
            run.memory = random_memory(_CLASSES, model.encoder.embed_width).to(runtime.device)  # (C, E)
        batch = random_batch(_batch_shape(cfg), cfg.DATALOADER.NUM_INSTANCE, _CLASSES)
        num_parts = cfg.SOLVER.ACCUM_STEPS
        return parts.step_seconds(run, build_criterion(cfg), batch, runtime, num_parts, warm_up, steps)

    return with_peak(work, runtime.device)


def _measure_pass(bench: Bench, part: str) -> Iterator[Measurement]:
    """The CLIP-Memory pass or the dense test, reading and decoding included, with random weights."""
    cfg, splits = _network_cfg(bench), bench.splits
    if part == "memory":
        title, tracklets = "CLIP-Memory pass", splits.train
    else:
        title, tracklets = "dense test", splits.query + splits.gallery

    def encoder(model: TFCLIP) -> parts.Encode:
        return (lambda clips, _camids: model.encode_memory(clips)) if part == "memory" else model.embed

    frames, size = cfg.INPUT.SEQ_LEN, cfg.INPUT.SIZE_TEST
    frame_flops = parts.pass_flops(encoder(_meta_model(cfg, splits.num_cameras).eval()), (1, frames, *size)) / frames
    model = build_model(cfg, _CLASSES, splits.num_cameras, pretrained=False).to(bench.runtime.device).eval()
    few, many = (some_tracklets(tracklets, frames, clips) for clips in (1, bench.sizes["pass_clips"]))
    source = frame_source(splits.pack, splits.root)
    passes = [(build_test_loader(cfg, chosen, "dense", source), len(chosen)) for chosen in (few, many)]
    name = f"{title}, clips of {frames} at {size[0]}x{size[1]}"
    runtimes = bench.runtimes(part)
    for runtime in runtimes:
        rate = parts.tracklet_pass_rate(encoder(model), passes, runtime, title)
        said = name if len(runtimes) == 1 else f"{name}, {runtime.precision}"
        yield from parts.pass_lines(part, said, rate, frames, cfg.DATALOADER.NUM_WORKERS, frame_flops, _matmul(runtime))


def _meta_model(cfg: CfgNode, num_cameras: int = _CAMERAS) -> TFCLIP:
    """The network without weights, to count what it computes."""
    with torch.device("meta"):
        return build_model(cfg, _CLASSES, num_cameras, pretrained=False)


def _batch_shape(cfg: CfgNode) -> tuple[int, ...]:
    """(B, T, H, W) of a training batch."""
    return (cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.SEQ_LEN, *cfg.INPUT.SIZE_TRAIN)


# What measures each part, and the machine's limits that it is held against; those with 'decode' read frames.
PARTS: Mapping[str, tuple[Callable[[Bench], Iterable[Measurement]], tuple[str, ...]]] = {
    "loader": (_measure_loader, ("decode",)),
    "step": (_measure_step, ("matmul",)),
    "memory": (lambda bench: _measure_pass(bench, "memory"), ("decode", "matmul")),
    "dense": (lambda bench: _measure_pass(bench, "dense"), ("decode", "matmul")),
    "rank": (
        lambda bench: ranking(bench.sizes["ranking"], bench.sizes["ranking_repeats"], bench.runtime.device),
        (),
    ),
    "rerank": (lambda bench: re_ranking(bench.sizes["ranking"], bench.sizes["re_ranking_repeats"]), ()),
}
