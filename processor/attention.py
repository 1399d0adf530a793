"""Pictures of where a trained network looks, one per tracklet.

python -m processor.attention RUN | --weight W [--query N,N,... | --input FOLDER] [--clip K] [--out FOLDER]

RUN is OUTPUT_DIR of a training, whose best.pth is taken. Without --query and --input the queries of best, middle and
worst average precision are shown: as RUN/ranks.csv has it, or after a test. --query N is row N of ranks.csv, from 1.
--input needs no data set: it shows the frames in a folder, in natural order, as one tracklet.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs import load_cfg
from configs.command import CommandParser, run_command, say
from utils.errors import InputError, MissingFileError, file_fault, printable

if TYPE_CHECKING:  # torch is imported once the command line is sound
    from yacs.config import CfgNode

    from datasets.tracklet import ReIDSplits
    from processor.evaluation import Picture
    from processor.trained_model import TrainedModel


def main(argv: Sequence[str]) -> int:
    """Write the pictures as PNG files and name them; returns the exit code."""

    def work() -> None:
        arguments = _parse(argv)
        config = load_cfg(arguments.config_file) if arguments.config_file else None
        weight = arguments.weight or _best_of(arguments.run)
        from processor import run_folder as files
        from processor.evaluation import WHAT_IT_MEANS
        from processor.trained_model import load_trained
        from utils.files import write_atomically

        out = arguments.out or weight.parent / files.ATTENTION
        files.check_writable(out, "--out")
        trained = load_trained(weight, config)
        pictures = _of_folder(trained, arguments) if arguments.input else _of_queries(trained, weight, arguments)
        files.create_output_dir(out, "--out")
        for name, picture in pictures.items():
            path = out / (name + (f"_clip{arguments.clip}" if arguments.clip > 1 else "") + ".png")
            write_atomically(path, lambda temporary, png=picture.png: temporary.write_bytes(png))
            say([f"wrote {path}: {picture.title}", f"  {picture.note}"])
        say([WHAT_IT_MEANS])

    return run_command(work)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        "Draw where a trained network looks in the frames of tracklets.", config="", keys=False,
        usage="python -m processor.attention RUN | --weight W [--query N,N,... | --input FOLDER] [--clip K] "
        "[--camera NAME] [--config_file F] [--out FOLDER]",
    )  # fmt: skip
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="OUTPUT_DIR of a training: its best.pth")
    parser.add_argument("--weight", type=Path, help="weight file, instead of RUN")
    parser.add_argument("--query", help="comma-separated numbers of queries, the first is 1")
    parser.add_argument("--input", type=Path, help="folder with the frames of one tracklet, without a data set")
    parser.add_argument("--camera", help="with --input: the camera's name in training (default: an unknown camera)")
    parser.add_argument("--clip", type=int, default=1, help="which clip of INPUT.SEQ_LEN frames, the first is 1")
    parser.add_argument("--out", type=Path, help="folder for the pictures (attention beside the weights)")
    parser.add_argument(
        "--config_file", "--config-file", type=Path,
        help="YAML file, instead of the config that the weights bring; where data were moved or weights bring none",
    )  # fmt: skip
    arguments = parser.parse(argv)
    if (arguments.run is None) == (arguments.weight is None):
        parser.error("name RUN, the OUTPUT_DIR of a training, or --weight FILE, and not both")
    if arguments.query is not None and arguments.input is not None:
        parser.error("--query shows queries of the data set, --input frames of a folder; give one of the two")
    if arguments.camera is not None and arguments.input is None:
        parser.error("--camera belongs to --input; the queries of a data set have their cameras")
    if arguments.clip < 1:
        parser.error(f"--clip {arguments.clip}: the first clip is 1")
    numbers = [] if arguments.query is None else arguments.query.split(",")
    if not all(number.strip().isdecimal() and int(number) > 0 for number in numbers):
        parser.error(f"--query {arguments.query} must be numbers from 1, separated by commas")
    arguments.queries = [int(number) - 1 for number in numbers]
    return arguments


def _best_of(run: Path) -> Path:
    """The weights of a run; raises MissingFileError where there are none."""
    from processor import run_folder as files

    weight = run / files.BEST
    if not (fault := file_fault(weight)):
        return weight
    splits = sorted(path.parent for path in run.glob(f"split[0-9]/{files.BEST}"))
    if splits:
        raise InputError(f"{run} is a series of splits; name one of them, such as {splits[0]}")
    if run.is_file():
        raise InputError(f"{run} is a file; RUN is the folder of a training, and weights are named with --weight")
    raise MissingFileError(
        f"{weight} {fault}; RUN is OUTPUT_DIR of a training that has tested an epoch, --weight FILE names other weights"
    )


def _of_folder(trained: "TrainedModel", arguments: argparse.Namespace) -> "dict[str, Picture]":
    """File name -> the picture of the frames in --input."""
    from datasets.own.folder import UnusableError, frames_in
    from datasets.tracklet import Tracklet
    from processor.evaluation import attention_pictures

    folder = arguments.input
    if not folder.exists():
        raise MissingFileError(f"--input {folder} does not exist; name a folder with the frames of one tracklet")
    if not folder.is_dir():
        raise InputError(f"--input {folder} is a file; name the folder of the frames of one tracklet")
    try:
        frames = frames_in(str(folder))
    except UnusableError as error:
        raise InputError(f"--input {folder} {error}") from None
    except OSError as error:
        raise InputError(f"--input {folder} cannot be read ({error.strerror})") from None
    camera = trained.no_camera if arguments.camera is None else trained.camera_number(arguments.camera)
    name = folder.resolve().name or "frames"
    (picture,) = attention_pictures(trained, [Tracklet(frames, 0, camera)], [printable(name)], clip=arguments.clip - 1)
    return {name: picture}


def _of_queries(trained: "TrainedModel", weight: Path, arguments: argparse.Namespace) -> "dict[str, Picture]":
    """File name -> the pictures of the queries that were asked for, or of the best, the middle and the worst."""
    from datasets import official_name
    from processor.evaluation import best_middle_worst, query_pictures

    cfg = trained.cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(weight.parent)  # a run that was moved has its cache with it
    splits = _read_splits(cfg)
    precisions = _saved_precisions(weight, splits)
    if arguments.queries:
        outside = [row + 1 for row in arguments.queries if row >= len(splits.query)]
        if outside:
            raise InputError(f"--query {outside[0]}: {cfg.DATASETS.NAMES} has queries 1 to {len(splits.query)}")
        known = {row: precisions[row] for row in arguments.queries} if precisions else {}
        notes = {row: f"AP {known[row]:.3f}" if known.get(row, math.nan) >= 0 else "" for row in arguments.queries}
    else:
        notes = best_middle_worst(precisions or _tested_precisions(trained, cfg, splits))
        if not notes:
            raise InputError("no query has a true match, so none is the best or the worst; name some with --query")
    pictures = query_pictures(trained, splits, official_name(cfg.DATASETS.NAMES), notes, arguments.clip - 1)
    return {f"query{row + 1}": picture for row, picture in zip(notes, pictures)}


def _read_splits(cfg: "CfgNode") -> "ReIDSplits":
    """The data set of the config; raises what reading it raises, and says what can be done without it."""
    from datasets import check_frames_present, configured_splits

    try:
        splits = configured_splits(cfg)
        check_frames_present(splits)
    except InputError as error:
        advice = "where the data were moved, name a config with their DATASETS.ROOT_DIR (--config_file)"
        raise InputError(f"{error.line}; {advice}, and --input FOLDER shows frames without a data set") from None
    return splits


def _saved_precisions(weight: Path, splits: "ReIDSplits") -> list[float] | None:
    """Average precision of each query in ranks.csv beside the weights; None without such a file of these weights."""
    from datasets.tracklet import below
    from processor import run_folder as files
    from processor.evaluation import read_ranks

    folder = weight.parent
    metrics = files.read_metrics(folder) or {}
    try:
        rows = read_ranks(folder)
    except InputError:
        return None
    is_of_weight = Path(metrics.get("weight", folder / files.BEST)).resolve() == weight.resolve()
    is_of_queries = [row["query"] for row in rows] == [below(splits.root, query.frames[0]) for query in splits.query]
    return [float(row["AP"] or "nan") for row in rows] if is_of_weight and is_of_queries else None


def _tested_precisions(trained: "TrainedModel", cfg: "CfgNode", splits: "ReIDSplits") -> list[float]:
    """Average precision of each query in a test of the whole data set."""
    from datasets import official_name
    from processor.evaluation import evaluate_part
    from processor.experiment import prepare

    here = official_name(cfg.DATASETS.NAMES), splits.cameras
    if trained.cameras and (trained.dataset, trained.cameras) != here:
        raise InputError(
            f"{cfg.DATASETS.NAMES} has other cameras than the data set of the training, so there is no test here; name "
            "queries with --query"
        )
    evaluation = evaluate_part(prepare(cfg, Path(cfg.OUTPUT_DIR)), trained.model, cfg.TEST.SAMPLING)
    return [ranking.average_precision for ranking in evaluation.rankings]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
