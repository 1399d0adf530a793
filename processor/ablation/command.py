"""Rows of the paper's tables, or of one's own: train and test each with several seeds, and put them into one table.

python -m processor.ablation [ROW.yml | FOLDER ...] [--config_file BASE] [--seeds 1,2,3] [--cost-only] [KEY VALUE ...]

A row is a file of what differs from the base config (configs/vit_base.yml), such as those in configs/ablation. Runs lie
in OUTPUT_DIR/<row>/seed<seed>; finished ones are skipped, a broken one goes on where it stopped. Rows of equal config
share their runs.
"""

import argparse
import difflib
import logging
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch
from yacs.config import CfgNode

from configs import ConfigError, changed_keys, file_keys, load_cfg
from configs.command import CommandParser, run_command
from datasets import check_frames_present, configured_splits
from model import build_model, build_text_branch, check_model
from processor import run_folder as files
from processor.ablation.cost import Cost, count_cost
from processor.ablation.tables import RowResult, log_costs, log_tables, write_tables
from processor.series import is_finished, run_or_continue, split_cfgs
from processor.training import check_start
from utils.errors import InputError, NonFiniteLossError
from utils.logger import hold_messages, log_to_file

logger = logging.getLogger(__name__)

ROWS_FOLDER = Path(__file__).parents[2] / "configs" / "ablation"
_LOG = "ablation_log.txt"
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Za-z0-9_]+)*")
_OF_A_ROW = ("MODEL.", "DATASETS.NAMES")  # what options must not take from a row
_OF_THE_NETWORK = ("MODEL.", "INPUT.SIZE", "INPUT.SEQ_LEN")
_SAME_NETWORK = ("MODEL.PRETRAIN_PATH", "MODEL.GRAD_CHECKPOINT", "MODEL.SIE_UNSEEN")
_PAPER_CLASSES, _PAPER_CAMERAS = 625, 6  # of MARS, which the paper's parameter counts belong to


@dataclass(frozen=True)
class Row:
    """One row that was asked for."""

    name: str  # of its file, without .yml
    cfg: CfgNode  # on the base config
    folder: str  # of its runs, below OUTPUT_DIR: its name, or that of the first row with an equal config
    as_paper: bool  # whether neither base nor options change its network


def main(argv: Sequence[str]) -> int:
    """Run the rows and write tables.md and tables.csv; returns the exit code."""
    return run_command(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        "Train and test rows of an ablation, and put them into one table.", config="what all rows share", keys=False,
        usage="python -m processor.ablation [ROW.yml | FOLDER ...] [--config_file BASE] [--seeds 1,2] [--cost-only] "
        "[KEY VALUE ...]",
    )  # fmt: skip
    parser.add_argument("--seeds", default="", help="comma-separated; default: SOLVER.SEED")
    parser.add_argument("--cost-only", action="store_true", help="parameters and multiply-adds of the rows, no data")
    parser.add_argument("rows_and_opts", nargs="*", metavar="ROW ... KEY VALUE ...")
    arguments = parser.parse(argv)
    given = arguments.rows_and_opts
    arguments.rows = list(takewhile(_names_row, given))
    arguments.opts = given[len(arguments.rows) :]
    late = [text for text in arguments.opts[::2] if text.endswith((".yml", ".yaml"))]
    if late:
        raise ConfigError(f"command line: row {late[0]} stands after KEY VALUE pairs; rows come first")
    try:
        arguments.seeds = [int(seed) for seed in arguments.seeds.split(",") if seed.strip()]
    except ValueError:
        raise ConfigError(f"--seeds {arguments.seeds} must be whole numbers with commas between, e.g. 1,2,3") from None
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise ConfigError(f"--seeds {arguments.seeds} names a seed twice")
    for seed in arguments.seeds:
        load_cfg(opts=["SOLVER.SEED", str(seed)])  # refuses what no config may hold
    return arguments


def _names_row(text: str) -> bool:
    """Whether an argument is a row and not a KEY."""
    return text.endswith((".yml", ".yaml")) or not _KEY.fullmatch(text)


def _run(arguments: argparse.Namespace) -> None:
    if not (arguments.rows or arguments.cost_only):
        raise ConfigError(f"no row is named; give files such as {ROWS_FOLDER}/table2_row4.yml, or the folder")
    rows = _load_rows(arguments)
    if arguments.cost_only:
        costs = _costs(rows)
        log_costs([RowResult(row.name, costs[row.name], row.as_paper) for row in rows])
        return
    out = Path(rows[0].cfg.OUTPUT_DIR)
    if files.run_files(out):
        raise InputError(f"OUTPUT_DIR {out} holds a run of train-main.py; name another folder for the ablation")
    files.check_output_dir(out, resume=False, overwrite=False)
    seeds = arguments.seeds or [rows[0].cfg.SOLVER.SEED]
    _check_input(rows, seeds, out)
    costs = _costs(rows)
    failed: list[str] = []
    try:
        for row in rows:
            failed += _run_row(row, seeds, out)
            write_tables(out, _results(rows, seeds, costs, out))
    except KeyboardInterrupt:
        command = shlex.join([sys.executable, "-m", "processor.ablation", *sys.argv[1:]])
        raise KeyboardInterrupt(f"stopped; finished runs are kept, continue with: {command}") from None
    hold_messages()
    log_to_file(out / _LOG, append=True)
    results = _results(rows, seeds, costs, out)
    log_tables(results)
    logger.info("wrote %s", ", ".join(map(str, write_tables(out, results))))
    if failed:
        raise InputError(f"{len(failed)} runs did not end: {', '.join(failed)}; the reason of each stands above")


def _run_row(row: Row, seeds: Sequence[int], out: Path) -> list[str]:
    """Train and test what is not finished; returns the runs that a fault of their input or their loss has ended."""
    failed = []
    for seed in seeds:
        cfg, title = _run_cfg(row, seed, out), f"{row.name}, seed {seed}"
        try:
            run_or_continue(cfg, title)
        except (InputError, NonFiniteLossError) as error:
            reason = error.line if isinstance(error, InputError) else error
            logger.error("%s: %s (to train it anew, remove %s)", title, reason, cfg.OUTPUT_DIR)
            failed.append(title)
    return failed


def _check_input(rows: Sequence[Row], seeds: Sequence[int], out: Path) -> None:
    """Raise InputError naming the row when weights or data of a run that is still to do are not at hand."""
    seen = set()
    for row in rows:
        cfg = next((cfg for seed in seeds if not is_finished(cfg := _run_cfg(row, seed, out))), None)
        if cfg is None:
            continue
        try:
            check_start(cfg)
            if cfg.DATASETS.dump() not in seen:
                check_frames_present(configured_splits(split_cfgs(cfg)[0] if cfg.DATASETS.SPLIT == "all" else cfg))
        except InputError as error:
            raise InputError(f"row {row.name}: {error.line}") from None
        seen.add(cfg.DATASETS.dump())


def _load_rows(arguments: argparse.Namespace) -> list[Row]:
    """The rows asked for, each with the folder of the first shipped or given row of equal config."""
    shipped = {path.stem: path for path in sorted(ROWS_FOLDER.glob("*.yml"))}
    by_name: dict[str, Path] = {}
    for path in (path for text in arguments.rows or [str(ROWS_FOLDER)] for path in _row_files(Path(text), shipped)):
        taken = by_name.setdefault(path.stem, shipped.get(path.stem, path))
        if taken.resolve() != path.resolve():
            raise ConfigError(f"{path}: {taken} has the same name, which is that of its runs; give one another name")
    first: dict[str, str] = {}  # config -> name of the first row that has it
    for name, path in (shipped | by_name).items():
        try:
            first.setdefault(_row_cfg(path, arguments).dump(), name)
        except ConfigError:
            if name in by_name:
                raise
            # A shipped row that was not asked for and does not go with this base.
    rows = []
    for name, path in by_name.items():
        cfg = _row_cfg(path, arguments)
        try:
            check_model(cfg)
        except InputError as error:
            raise InputError(f"row {name}: {error.line}") from None
        rows.append(Row(name, cfg, first[cfg.dump()], _has_paper_sizes(cfg, path)))
    return rows


def _row_cfg(path: Path, arguments: argparse.Namespace) -> CfgNode:
    """The config of a row file on the base; raises ConfigError naming the file."""
    keys = file_keys(path)
    for key, instead in (("SOLVER.SEED", "--seeds"), ("OUTPUT_DIR", "the command line")):
        if key in keys:
            raise ConfigError(f"row {path}: {key} is the same for all rows; it belongs to {instead}")
    hidden = [key for key in arguments.opts[::2] if key.startswith(_OF_A_ROW) and key in keys]
    if hidden:
        raise ConfigError(f"command line: {hidden[0]} is what row {path} sets; leave it to the row")
    try:
        return load_cfg([arguments.config_file, path], arguments.opts)
    except ConfigError as error:
        raise ConfigError(str(error) if str(path) in str(error) else f"row {path}: {error}") from None


def _row_files(path: Path, shipped: Mapping[str, Path]) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted([*path.glob("*.yml"), *path.glob("*.yaml")])
        if not found:
            raise ConfigError(f"folder {path} holds no row (*.yml)")
        return found
    near = difflib.get_close_matches(path.stem, shipped, n=1)
    hint = f"; did you mean {shipped[near[0]]}?" if near else f"; the paper's rows are in {ROWS_FOLDER}"
    raise ConfigError(f"row {path} does not exist{hint}")


def _run_cfg(row: Row, seed: int, out: Path) -> CfgNode:
    """The config of one run; what is unpacked serves all."""
    cfg = row.cfg.clone()
    cfg.defrost()
    cfg.SOLVER.SEED = seed
    cfg.DATASETS.CACHE_DIR = cfg.DATASETS.CACHE_DIR or str(out / "cache")
    cfg.OUTPUT_DIR = str(out / row.folder / f"seed{seed}")
    cfg.freeze()
    return cfg


def _results(rows: Sequence[Row], seeds: Sequence[int], costs: dict[str, Cost | None], out: Path) -> list[RowResult]:
    """What is finished so far."""
    results = []
    for row in rows:
        cfgs = [cfg for seed in seeds if is_finished(cfg := _run_cfg(row, seed, out))]
        runs = [run for cfg in cfgs if (run := files.read_metrics(Path(cfg.OUTPUT_DIR))) is not None]
        results.append(RowResult(row.name, costs[row.name], row.as_paper, runs))
    return results


def _costs(rows: Sequence[Row]) -> dict[str, Cost | None]:
    """Row name -> cost, None for a text branch without its package; rows of equal config are counted once."""
    by_folder: dict[str, Cost | None] = {}
    for row in rows:
        if row.folder in by_folder:
            continue
        try:
            by_folder[row.folder] = _cost(row.cfg)
        except InputError as error:
            if row.cfg.MODEL.MEMORY != "text":
                raise
            logger.warning("%s is not counted: %s", row.name, error.line)
            by_folder[row.folder] = None
    return {row.name: by_folder[row.folder] for row in rows}


def _cost(cfg: CfgNode) -> Cost:
    with torch.device("meta"):
        model = build_model(cfg, _PAPER_CLASSES, _PAPER_CAMERAS, pretrained=False)
        text = build_text_branch(cfg, model, pretrained=False) if cfg.MODEL.MEMORY == "text" else None
    return count_cost(model, cfg.INPUT.SIZE_TRAIN, cfg.INPUT.SEQ_LEN, cfg.MODEL.MEMORY != "none", text)


def _has_paper_sizes(cfg: CfgNode, path: Path) -> bool:
    """Whether base and options leave network, image and clip as the row file has them on the paper's recipe."""
    papers = load_cfg(path)
    changes = changed_keys(papers.dump(), cfg)
    return not any(key.startswith(_OF_THE_NETWORK) and key not in _SAME_NETWORK for key in changes)


