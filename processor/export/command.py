"""Write a trained network as one file that other programs run, and check that it computes what the network does.

python -m processor.export --weight W --format onnx|pt2 --out FILE [--config_file F] [--half] [--opset N]
    [KEY VALUE ...]

Everything is done on the CPU. docs/deploy.md says what the file takes and gives, and how to run it.
"""

import argparse
import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from configs import ConfigError, load_cfg
from configs.command import DEFAULT_CONFIG, CommandParser, run_command, say
from utils.errors import InputError, MissingFileError, file_fault

_SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2"}  # format -> end of the file's name
_OPSETS, _OPSET = range(18, 26), 20  # that torch writes and onnxruntime runs; the one that is written unless asked
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def main(argv: Sequence[str]) -> int:
    """Export, check and measure; returns the exit code."""

    def work() -> None:
        arguments = _parse(argv)
        _check(arguments)
        say(_export(arguments))

    return run_command(work)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        "Write a trained network as one file that other programs run.", prog="python -m processor.export",
        config="config of the training, where the weight file does not hold it, or in place of that",
    )  # fmt: skip
    parser.add_argument("--weight", type=Path, required=True, help="best.pth of a run, or a published TF-CLIP file")
    parser.add_argument("--format", choices=_SUFFIXES, required=True, help="pt2 is torch.export's format")
    parser.add_argument("--out", type=Path, required=True, help="the file to write, which ends in .onnx or .pt2")
    parser.add_argument("--half", action="store_true", help="weights and computing in float16")
    parser.add_argument("--opset", type=int, help=f"of ONNX, {_OPSETS[0]} to {_OPSETS[-1]} (default: {_OPSET})")
    parser.set_defaults(config_file=None)
    return parser.parse(argv)


def _check(arguments: argparse.Namespace) -> None:
    """Raise InputError for what can be known to be wrong without torch."""
    out, suffix = arguments.out, _SUFFIXES[arguments.format]
    if out.suffix.lower() != suffix:
        raise ConfigError(f"--out {out}: the name of a file in --format {arguments.format} ends in {suffix}")
    if arguments.opset is not None and arguments.format != "onnx":
        raise ConfigError(f"--opset {arguments.opset} belongs to --format onnx, found {arguments.format}")
    if arguments.opset is not None and arguments.opset not in _OPSETS:
        raise ConfigError(f"--opset must lie between {_OPSETS[0]} and {_OPSETS[-1]}, found {arguments.opset}")
    try:
        load_cfg(arguments.config_file or DEFAULT_CONFIG, arguments.opts)
    except ConfigError as error:  # what contradicts the defaults may fit the training's config, which is read later
        if arguments.config_file is not None or str(error).startswith("command line: "):
            raise
    if fault := file_fault(arguments.weight):
        raise MissingFileError(f"weight file {arguments.weight} {fault}")
    if not out.parent.is_dir():
        raise MissingFileError(f"--out {out}: folder {out.parent} does not exist; make it first")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file")
    if arguments.format == "onnx":
        absent = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
        if absent:
            packages, command = ", ".join(absent), f"pip install {' '.join(absent)}"
            raise InputError(f"--format onnx needs {packages}: {command}; --format pt2 needs torch alone")


def _export(arguments: argparse.Namespace) -> list[str]:
    """Write the file; returns what is to be said of it."""
    from torch import get_num_threads

    from model import pixel_statistics
    from processor.export import check, facts, onnx_file, pt2_file
    from processor.export.wrapper import ANY_LENGTH, TrackletFeatures, trace
    from processor.export.write import quiet_exporters, write_checked
    from processor.run_folder import check_writable
    from processor.trained_model import load_trained

    check_writable(arguments.out.parent, "--out")
    # Files are exported in float32 or float16, whatever number type tests were made in.
    opts = [*arguments.opts, "TEST.PRECISION", "float32"]
    config = load_cfg(arguments.config_file, opts) if arguments.config_file is not None else None
    trained = load_trained(arguments.weight, config, "cpu", opts)
    cfg, half = trained.cfg, arguments.half
    size, length, unit_length = cfg.INPUT.SIZE_TEST, cfg.INPUT.SEQ_LEN, cfg.TEST.FEAT_NORM
    any_length = cfg.MODEL.TEMPORAL in ANY_LENGTH
    num_cameras = len(trained.cameras) + 1 if trained.cameras else 0
    module = TrackletFeatures(trained.model, trained.runtime.normalize, num_cameras > 0, unit_length, half)
    reference = check.model_run(trained.model, trained.runtime, unit_length)
    batches = check.random_batches(size, num_cameras, length, any_length)
    one_clip = check.random_batch(size, num_cameras, length, [1])
    num_features = reference(one_clip).shape[1]
    mean, std, _ = pixel_statistics(cfg)
    known = facts.network_facts(f"{cfg.MODEL.NAME}, {cfg.MODEL.TEMPORAL}", size, mean, std, length, any_length)
    cameras = {name: trained.camera_number(name) for name in trained.trained_cameras}
    known |= facts.tracklet_facts(
        cfg.TEST.SAMPLING, cameras, trained.no_camera, cfg.TEST.NECK_FEAT, num_features, unit_length
    )
    known |= facts.origin_facts(arguments.weight.name, trained.weight_sha256, half)
    limit = check.half_limit(module.num_layers) if half else check.FLOAT32_LIMIT
    with quiet_exporters():
        program = trace(module, size, length, any_length)
        if arguments.format == "onnx":
            opset = arguments.opset or _OPSET
            save, load = partial(onnx_file.save, program=program, facts=known, opset=opset), onnx_file.load
        else:
            save, load = partial(pt2_file.save, program=program, facts=known), pt2_file.load
        found = write_checked(arguments.out, save, load, reference, batches, one_clip, limit)
    kind = f"ONNX, opset {arguments.opset or _OPSET}" if arguments.format == "onnx" else "torch.export"
    frames = "any number of" if any_length else f"{length}"
    lines = [
        f"wrote {arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB, {kind}, {known['precision']}",
        f"takes clips of {frames} frames of {size[0]} x {size[1]} pixels, trained with {length} frames"
        + (f", and the number of one of {len(cameras)} cameras" if num_cameras else ""),
        f"gives features of {num_features} numbers, at most {found.difference:.1e} of their length from the model's "
        f"(allowed: {limit:.1e}) in {len(batches)} batches of random frames",
        f"latency of one clip of {length} frames, CPU, {get_num_threads()} threads, median: "
        f"{1000 * found.file_seconds:.1f} ms, of the model {1000 * found.model_seconds:.1f} ms",
    ]
    if half:
        lines.append("CPUs have few float16 kernels: this latency says nothing about a GPU's")
    return lines
