"""Rows of the paper's tables, or of one's own: train and test each with several seeds, and put them into one table.

python -m processor.ablation [ROW.yml | FOLDER ...] [--config_file BASE] [--seeds 1,2,3] [--cost-only] [KEY VALUE ...]

A row is a file of the keys that differ from the base config (configs/vit_base.yml), such as those in configs/ablation.
Runs lie in OUTPUT_DIR/<row>/seed<seed>; finished ones are skipped, one that was broken off goes on where it stopped.
Rows of equal config share their runs.
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
from configs.command import CommandParser
from datasets import check_frames_present, configured_splits
from model import build_model, build_text_branch, check_model
from processor import run_folder as files
from processor.ablation.cost import Cost, count_cost
from processor.ablation.tables import RowResult, log_costs, write_tables
from processor.distributed import current_ranks
from processor.launch import run_on_ranks
from processor.series import is_finished, run_or_continue, split_cfgs
from processor.training import check_start
from utils.errors import InputError, NonFiniteLossError
from utils.logger import hold_messages, log_to_file

logger = logging.getLogger(__name__)

ROWS_FOLDER = Path(__file__).parents[2] / "configs" / "ablation"
_LOG = "ablation_log.txt"
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Za-z0-9_]+)*")
_ROW_KEYS = (  # where a row sets them, the command line must not
    "MODEL.", "DATASETS.NAMES", "INPUT.INTERPOLATION", "INPUT.PADDING", "INPUT.PIXEL_", "INPUT.RE_MODE",
)  # fmt: skip
_NETWORK_KEYS = ("MODEL.", "INPUT.SIZE", "INPUT.SEQ_LEN")
_FREE_MODEL_KEYS = ("MODEL.PRETRAIN_PATH", "MODEL.GRAD_CHECKPOINT", "MODEL.SIE_UNSEEN")  # leave the network as it is
_PAPER_CLASSES, _PAPER_CAMERAS = 625, 6  # of MARS, which the paper's parameter counts belong to


@dataclass(frozen=True)
class Row:
    """One row that was asked for."""

    name: str  # of its file, without .yml
    cfg: CfgNode  # on the base config
    folder: str  # of its runs, below OUTPUT_DIR: its name, or that of the first row with an equal config
    as_paper: bool  # whether network, image and clip are as the row file has them on the paper's recipe


def main(argv: Sequence[str]) -> int:
    """Run the rows and write tables.md and tables.csv; returns the exit code."""
    return run_on_ranks(lambda: _run(_parse(argv)))


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
    arguments.rows = list(takewhile(lambda text: _is_file_name(text) or not _KEY.fullmatch(text), given))
    arguments.opts = given[len(arguments.rows) :]
    late = [text for text in arguments.opts[::2] if _is_file_name(text)]
    if late:
        raise ConfigError(f"command line: row {late[0]} stands after KEY VALUE pairs; rows come first")
    seeds = [text for text in arguments.seeds.split(",") if text.strip()]
    try:
        arguments.seeds = [load_cfg(opts=["SOLVER.SEED", text]).SOLVER.SEED for text in seeds]
    except ConfigError as error:
        raise ConfigError(f"--seeds {arguments.seeds}: {error}") from None
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise ConfigError(f"--seeds {arguments.seeds} names a seed twice")
    return arguments


def _is_file_name(text: str) -> bool:
    return text.endswith((".yml", ".yaml"))


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
    ranks = current_ranks()
    ranks.on_main(lambda: files.check_output_dir(out, resume=False, overwrite=False))
    seeds = arguments.seeds or [rows[0].cfg.SOLVER.SEED]
    ranks.on_main(lambda: _check_input(rows, seeds, out))
    costs = _costs(rows)
    failed: list[str] = []
    try:
        for row in rows:
            for seed in seeds:
                cfg, title = _run_cfg(row, seed, out), f"{row.name}, seed {seed}"
                try:
                    run_or_continue(cfg, title)
                except (InputError, NonFiniteLossError) as error:  # the other runs go on
                    if ranks.size > 1:  # other ranks may wait for this one within the run
                        raise
                    reason = error.line if isinstance(error, InputError) else str(error)
                    logger.error("%s: %s (to train it anew, remove %s)", title, reason, cfg.OUTPUT_DIR)
                    failed.append(title)
            ranks.on_main(lambda: write_tables(out, _results(rows, seeds, costs, out)))
    except KeyboardInterrupt:
        command = shlex.join([sys.executable, "-m", "processor.ablation", *sys.argv[1:]])
        raise KeyboardInterrupt(f"stopped; finished runs are kept, continue with: {command}") from None
    hold_messages()
    log_to_file(out / _LOG, append=True)
    if ranks.is_main:
        results = _results(rows, seeds, costs, out)
        written = write_tables(out, results, log=True)
        logger.info("wrote %s", ", ".join(map(str, written)))
    if failed:
        raise InputError(f"{len(failed)} runs did not end: {', '.join(failed)}; the reason of each stands above")


def _check_input(rows: Sequence[Row], seeds: Sequence[int], out: Path) -> None:
    """Raise InputError naming the row when data of an unfinished run, or weights to begin one, are missing."""
    seen = set()  # data sets that are known to be there
    for row in rows:
        cfgs = [_run_cfg(row, seed, out) for seed in seeds]
        runs = [run for cfg in cfgs for run in (split_cfgs(cfg) if cfg.DATASETS.SPLIT == "all" else [cfg])]
        unfinished = [run for run in runs if not is_finished(run)]
        if not unfinished:
            continue
        begun = [(Path(run.OUTPUT_DIR) / files.LAST).exists() for run in unfinished]
        try:
            check_start(unfinished[0], pretrained=not all(begun))
            if row.cfg.DATASETS.dump() not in seen:
                check_frames_present(configured_splits(unfinished[0]))
        except InputError as error:
            raise InputError(f"row {row.name}: {error.line}") from None
        seen.add(row.cfg.DATASETS.dump())


def _load_rows(arguments: argparse.Namespace) -> list[Row]:
    """The rows asked for, each with the folder of the first row, shipped ones first, of equal config."""
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
            # else: a shipped row that was not asked for and does not fit this base config
    rows = []
    for name, path in by_name.items():
        cfg = _row_cfg(path, arguments)
        try:
            check_model(cfg)
        except InputError as error:
            raise InputError(f"row {name}: {error.line}") from None
        changes = [key for key in changed_keys(load_cfg(path).dump(), cfg) if not key.startswith(_FREE_MODEL_KEYS)]
        as_paper = not any(key.startswith(_NETWORK_KEYS) for key in changes)
        rows.append(Row(name, cfg, first[cfg.dump()], as_paper))
    return rows


def _row_cfg(path: Path, arguments: argparse.Namespace) -> CfgNode:
    """The config of a row file on the base; raises ConfigError naming the file."""
    keys = file_keys(path)
    for key, instead in (("SOLVER.SEED", "--seeds"), ("OUTPUT_DIR", "the command line")):
        if key in keys:
            raise ConfigError(f"row {path}: {key} is the same for all rows; it belongs to {instead}")
    hidden = [key for key in arguments.opts[::2] if key.startswith(_ROW_KEYS) and key in keys]
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
    """The config of one run; all runs share one cache.

    Runs save the scores of their queries (ranks.csv), which the stars of the tables come from; one that was finished
    without them stays as it is.
    """
    cfg = row.cfg.clone()
    cfg.defrost()
    cfg.SOLVER.SEED = seed
    cfg.DATASETS.CACHE_DIR = cfg.DATASETS.CACHE_DIR or str(out / "cache")
    cfg.OUTPUT_DIR = str(out / row.folder / f"seed{seed}")
    cfg.TEST.SAVE_RANKS |= not is_finished(cfg)
    cfg.freeze()
    return cfg


def _results(rows: Sequence[Row], seeds: Sequence[int], costs: dict[str, Cost | None], out: Path) -> list[RowResult]:
    """Every row with the metrics of its finished runs."""
    results = []
    for row in rows:
        finished = [cfg for seed in seeds if is_finished(cfg := _run_cfg(row, seed, out))]
        read = {Path(cfg.OUTPUT_DIR): files.read_metrics(Path(cfg.OUTPUT_DIR)) for cfg in finished}
        runs = {folder: metrics for folder, metrics in read.items() if metrics}
        results.append(RowResult(row.name, costs[row.name], row.as_paper, list(runs.values()), list(runs)))
    return results


def _costs(rows: Sequence[Row]) -> dict[str, Cost | None]:
    """Row name -> cost, None for a text branch without its package; rows of equal config are counted once."""
    by_folder: dict[str, Cost | None] = {}
    for row in rows:
        if row.folder in by_folder:
            continue
        cfg, with_text = row.cfg, row.cfg.MODEL.MEMORY == "text"
        try:
            with torch.device("meta"):
                model = build_model(cfg, _PAPER_CLASSES, _PAPER_CAMERAS, pretrained=False)
                text = build_text_branch(cfg, model, pretrained=False) if with_text else None
        except InputError as error:
            if not with_text:
                raise
            logger.warning("%s is not counted: %s", row.name, error.line)
            by_folder[row.folder] = None
            continue
        has_memory = cfg.MODEL.MEMORY != "none"
        by_folder[row.folder] = count_cost(model, cfg.INPUT.SIZE_TRAIN, cfg.INPUT.SEQ_LEN, has_memory, text)
    return {row.name: by_folder[row.folder] for row in rows}
