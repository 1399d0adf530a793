"""The scores of every query of a run, from ranks.csv or features.npz.

Q queries, S scores (utils.metrics.SCORES), F features.
"""

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.tracklet import Tracklet
from processor.evaluation import rank_tracklets, read_features, read_protocol
from utils.errors import InputError
from utils.metrics import SCORES

_CUTS = {"rank1": 1, "rank5": 5, "rank10": 10, "rank20": 20}  # Rank-k: the first true match is among k


class Query(NamedTuple):
    """Who is searched for; person and camera are as the data set names them."""

    name: str  # first frame, a path below the data's folder; empty where only features.npz is there
    person: str
    camera: str


def read_ranks(path: Path) -> tuple[tuple[Query, ...], NDArray[np.float64]]:
    """Queries and their scores (S, Q) from ranks.csv.

    AP and INP have six digits there: a mean of them is off by at most 5e-7, and rankings that are equal are equal text.
    """
    queries, columns = [], []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for record in csv.DictReader(file):
                queries.append(Query(record["query"], record["pid"], record["camera"]))
                columns.append(_scores(record["AP"], record["INP"], record["first_match"]))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        what = f"column {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{path} is broken at query {len(queries) or 1}: {what}; write it anew with TEST.SAVE_RANKS True"
        ) from None
    if not queries:
        raise InputError(f"{path} names no query; write it anew with TEST.SAVE_RANKS True")
    name, times = Counter(query.name for query in queries).most_common(1)[0]
    if times > 1:
        raise InputError(f"{path} names query {name} {times} times; queries are matched by name")
    return tuple(queries), np.array(columns).T


def _scores(ap: str, inp: str, first_match: str) -> list[float]:
    """The cells of one query -> its scores (S,), nan where all three are empty; raises ValueError."""
    if ap == inp == first_match == "":
        return [float("nan")] * len(SCORES)
    values = {"mAP": float(ap), "mINP": float(inp)}
    if not all(0 <= value <= 1 for value in values.values()) or int(first_match) < 1:
        raise ValueError(f"AP {ap}, INP {inp}, first_match {first_match} are no scores")
    values |= {name: float(int(first_match) <= cut) for name, cut in _CUTS.items()}
    return [values[name] for name in SCORES]


def rank_saved_features(folder: Path, metrics: Mapping[str, Any]) -> tuple[tuple[Query, ...], NDArray[np.float64]]:
    """Queries and their scores (S, Q) from features.npz, ranked by the protocol of the test; digits as in ranks.csv."""
    protocol, saved = read_protocol(folder, metrics), read_features(folder)
    tracklets = [Tracklet(("-",), int(pid), int(camid)) for pid, camid in zip(saved.pids, saved.camids)]
    rankings = rank_tracklets(saved.features, tracklets, saved.num_query, protocol).rankings
    cells = [
        (f"{r.average_precision:.6f}", f"{r.inverse_negative_penalty:.6f}", str(r.first_match))
        if r.first_match
        else ("", "", "")
        for r in rankings
    ]
    queries = tuple(Query("", str(t.pid), str(t.camid)) for t in tracklets[: saved.num_query])
    return queries, np.array([_scores(*query) for query in cells]).T
