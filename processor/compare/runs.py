"""What is compared: rows of one or several runs, with the scores of every query.

Q queries, V those of them with a true match, P persons they show, S scores (utils.metrics.SCORES), N seeds of a row.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processor import run_folder as files
from processor.compare.queries import Query, rank_saved_features, read_ranks
from utils.errors import InputError, MissingFileError

SAME_TEST = (  # of the protocol: where they differ, other questions were asked
    "dataset", "split", "train_half", "left_out", "gallery_includes_query", "same_camera_filter", "ap",
)  # fmt: skip
CHOICES = ("sampling", "neck_feat", "feat_norm", "camera_embedding", "re_ranking", "precision")  # what one compares
_STALE = 1e-3  # mAP of ranks.csv against metrics.json; a GPU orders near ties in another way, by far less
_SEED_FOLDER = re.compile(r"seed\d+")


@dataclass(frozen=True)
class Run:
    """A tested run."""

    folder: Path
    metrics: Mapping[str, Any]  # content of metrics.json
    queries: tuple[Query, ...]  # Q
    values_SQ: NDArray[np.float64]  # scores of each query; nan without a true match

    @property
    def protocol(self) -> Mapping[str, Any]:
        """How it was tested."""
        return self.metrics["protocol"]


@dataclass(frozen=True)
class Row:
    """One line of the comparison: runs that differ in nothing but the seed, with the queries in one order."""

    name: str
    runs: tuple[Run, ...]  # N

    @property
    def queries(self) -> tuple[Query, ...]:
        """The queries with a true match (V)."""
        has_match = ~np.isnan(self.runs[0].values_SQ[0])
        return tuple(query for query, has in zip(self.runs[0].queries, has_match) if has)

    @cached_property
    def values_SNV(self) -> NDArray[np.float64]:
        """The scores of every query in every run."""
        values_SNQ = np.stack([run.values_SQ for run in self.runs], axis=1)
        return values_SNQ[:, :, ~np.isnan(values_SNQ[0, 0])]

    @cached_property
    def sums_SNP(self) -> NDArray[np.float64]:
        """The sums of `values_SNV` over the queries of each person, in the order in which the queries name them."""
        persons_V = self._persons_V
        return np.apply_along_axis(lambda values_V: np.bincount(persons_V, values_V), 2, self.values_SNV)

    @cached_property
    def counts_P(self) -> NDArray[np.int64]:
        """The number of queries of each person."""
        return np.bincount(self._persons_V)

    @property
    def _persons_V(self) -> NDArray[np.int64]:
        number: dict[str, int] = {}
        return np.array([number.setdefault(query.person, len(number)) for query in self.queries])


def load_row(name: str, folders: Sequence[Path]) -> Row:
    """The runs in these folders; a folder with seed<number> below it stands for all of them.

    Raises InputError naming the folder or file for what cannot be read, and when the runs are not the same test.
    """
    expanded = [run for folder in folders for run in _run_folders(folder)]
    if len({folder.resolve() for folder in expanded}) < len(expanded):
        raise InputError(f"{name} names a run twice: {', '.join(map(str, expanded))}")
    row = Row(name, tuple(map(_load_run, expanded)))
    first = row.runs[0]
    for run in row.runs[1:]:
        other = [key for key in CHOICES if key != "precision" and _choice(run, key) != _choice(first, key)]
        if other:
            raise InputError(
                f"{run.folder} and {first.folder} are no two seeds of one row: {_both(run, first, other[0])}; give "
                "each as a row of its own"
            )
    return check_comparable([row])[0]


def check_comparable(rows: Sequence[Row]) -> list[Row]:
    """The rows with the queries in the order of the first run that names them, matched by name.

    Runs without names (features.npz alone) are matched by position; persons and cameras must then change in the same
    places. Raises InputError naming the first thing that differs: data, split, gallery, camera filter, rule of AP,
    queries.
    """
    runs = [run for row in rows for run in row.runs]
    first = next((run for run in runs if run.queries[0].name), runs[0])
    return [Row(row.name, tuple(_in_order(run, first) for run in row.runs)) for row in rows]


def choices(rows: Sequence[Row]) -> list[str]:
    """A line for each choice of the test that the rows made differently: this is what is compared."""
    lines = []
    for key in CHOICES:
        values = {row.name: sorted({_choice(run, key) for run in row.runs}) for row in rows}
        if len({value for found in values.values() for value in found}) > 1:
            lines.append(f"{key} differs: " + "; ".join(f"{name} {', '.join(found)}" for name, found in values.items()))
    return lines


def _run_folders(folder: Path) -> list[Path]:
    """The folder itself, or its seeds."""
    if not folder.is_dir():
        raise MissingFileError(f"{folder} {'is a file' if folder.exists() else 'does not exist'}; name an OUTPUT_DIR")
    if (folder / files.METRICS).exists():
        return [folder]
    seeds = [path for path in folder.iterdir() if _SEED_FOLDER.fullmatch(path.name) and path.is_dir()]
    if seeds:
        return sorted(seeds, key=lambda path: int(path.name.removeprefix("seed")))
    found = {path.parent for depth in ("*", "*/seed*") for path in folder.glob(f"{depth}/{files.METRICS}")}
    below = sorted(str(run.parent if _SEED_FOLDER.fullmatch(run.name) else run) for run in found)
    hint = f"; name what is below it, such as {below[0]}" if below else "; name an OUTPUT_DIR whose test has ended"
    raise MissingFileError(f"{folder / files.METRICS} does not exist{hint}")


def _load_run(folder: Path) -> Run:
    path = folder / files.METRICS
    if not path.exists():
        raise MissingFileError(f"{path} does not exist: the run has not come to its test")
    metrics = files.read_metrics(folder)
    if metrics is None:
        raise InputError(f"{path} holds no scores of one test; {_instead(folder)}")
    if "splits" in metrics:
        raise InputError(f"{folder} is a series of splits, which share people; compare one split, {folder / 'split0'}")
    protocol, counts = metrics["protocol"], (metrics["num_query"], metrics["num_gallery"])
    if not (isinstance(protocol, dict) and isinstance(protocol.get("dataset"), str)):
        raise InputError(f"{path}: protocol names no dataset; {_instead(folder)}")
    if not all(type(count) is int for count in counts):
        raise InputError(f"{path}: num_query or num_gallery is no number; {_instead(folder)}")
    if (folder / files.RANKS).exists():
        source = folder / files.RANKS
        queries, values_SQ = read_ranks(source)
    elif (folder / files.FEATURES).exists():
        source = folder / files.FEATURES
        queries, values_SQ = rank_saved_features(folder, metrics)
    else:
        raise MissingFileError(
            f"{folder} has neither {files.RANKS} nor {files.FEATURES}, so its queries are not known; test it once more "
            f"and compare the new folder: {_retest(folder, metrics)}"
        )
    if np.isnan(values_SQ[0]).all():
        raise InputError(f"{source}: no query has a true match")
    mean_ap = float(np.nanmean(values_SQ[0]))
    if len(queries) != metrics["num_query"] or abs(mean_ap - metrics["mAP"]) > _STALE:
        raise InputError(
            f"{source} ({len(queries)} queries, mAP {100 * mean_ap:.2f}) is not of the test in {path} "
            f"({metrics['num_query']} queries, mAP {100 * metrics['mAP']:.2f}); test the run again: "
            f"{_retest(folder, metrics)}"
        )
    return Run(folder, metrics, queries, values_SQ)


def _instead(folder: Path) -> str:
    """What to do where metrics.json cannot be used: several data sets have one each in a folder below."""
    below = sorted(str(path.parent) for path in folder.glob(f"*/{files.METRICS}"))
    return f"name what is below it, such as {below[0]}" if below else "test the run again with eval-main.py"


def _weight(folder: Path, metrics: Mapping[str, Any]) -> Path:
    return Path(str(metrics["weight"])) if "weight" in metrics else folder / files.BEST


def find_config(folder: Path, metrics: Mapping[str, Any]) -> Path:
    """The config that the run was trained with: in its folder, or beside the weight file that was tested."""
    places = [folder / files.CONFIG, _weight(folder, metrics).parent / files.CONFIG]
    return next((path for path in places if path.is_file()), places[0])


def tested_keys(metrics: Mapping[str, Any]) -> list[str]:
    """KEY VALUE pairs that eval-main.py has noted of a test; empty for the test at the end of a training."""
    own = metrics.get("config")
    return [str(part) for pair in own.items() for part in pair] if isinstance(own, dict) else []


def _retest(folder: Path, metrics: Mapping[str, Any]) -> str:
    """The command that tests the run's weights into a folder beside it, with ranks.csv."""
    words = ["--config_file", find_config(folder, metrics), *tested_keys(metrics), "TEST.WEIGHT"]
    words += [_weight(folder, metrics), "OUTPUT_DIR", f"{folder}-ranks", "TEST.SAVE_RANKS", "True"]
    return shlex.join(["python", "eval-main.py", *map(str, words)])


def _in_order(run: Run, first: Run) -> Run:
    """The run with its queries in the order of those of `first`; raises InputError where it is another test."""
    for key in SAME_TEST:
        if run.protocol.get(key, "") != first.protocol.get(key, ""):
            raise InputError(f"{run.folder} and {first.folder} are different tests: {_both(run, first, key)}")
    for key in ("num_query", "num_gallery"):
        if run.metrics[key] != first.metrics[key]:
            counts = f"{key} {run.metrics[key]} and {first.metrics[key]}"
            raise InputError(f"{run.folder} and {first.folder} are different tests: {counts}")
    if run.queries[0].name and first.queries[0].name:
        places = {query: place for place, query in enumerate(run.queries)}
        unknown = next((query for query in first.queries if query not in places), None)
        if unknown is not None:
            asked = f"query {unknown.name} (person {unknown.person}, camera {unknown.camera})"
            raise InputError(f"{run.folder} and {first.folder} are different tests: only the latter has {asked}")
        order = [places[query] for query in first.queries]
        run = replace(run, values_SQ=run.values_SQ[:, order])
    elif _pattern(run.queries) != _pattern(first.queries):
        raise InputError(
            f"{run.folder} and {first.folder} are different tests: persons or cameras of the queries do not agree"
        )
    lacks = np.isnan(run.values_SQ[0]) != np.isnan(first.values_SQ[0])
    if lacks.any():
        place = int(np.flatnonzero(lacks)[0])
        raise InputError(
            f"{run.folder} and {first.folder} are different tests: only one has a true match for query "
            f"{first.queries[place].name or place + 1}"
        )
    return replace(run, queries=first.queries)


def _pattern(queries: Sequence[Query]) -> list[tuple[int, int]]:
    """Of every query the first one with its person, and the first one with its camera."""
    persons: dict[str, int] = {}
    cameras: dict[str, int] = {}
    return [
        (persons.setdefault(query.person, place), cameras.setdefault(query.camera, place))
        for place, query in enumerate(queries)
    ]


def _choice(run: Run, key: str) -> str:
    value = run.protocol.get(key, "unknown")
    if isinstance(value, dict):
        return " ".join(f"{name} {number}" for name, number in value.items())
    return "off" if value is None else json.dumps(value).strip('"')


def _both(run: Run, first: Run, key: str) -> str:
    return f"{key} {_choice(run, key)} and {_choice(first, key)}"
