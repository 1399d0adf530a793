"""What the page of a run shows, as plain data: ranked lists, curves, camera pairs, distances, the map of features.

Q queries, G gallery tracklets, K ranks, n tracklets, F features.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.tracklet import ReIDSplits, Tracklet, below
from processor.evaluation.evaluator import Evaluation
from processor.evaluation.reports import NEAREST
from utils.errors import printable
from utils.metrics import l2_normalize, mean_intervals

MOST_QUERIES = 2_000  # on the page; MARS has 1,980
_MOST_RANK = 20  # of the CMC curve, the last of the scores
_BINS = (12, 60)  # of the histograms of distances: least and most
_MOST_DISTANCES = 4_000_000  # of false pairs that are looked at
_IDENTITIES, _PER_IDENTITY = 12, 60  # people of the map, and tracklets of each
_LEAST_POINTS = 8  # of a map


class Shown(NamedTuple):
    """A tracklet as the page names it; all texts are printable."""

    name: str  # first frame, a path below the data's folder
    person: str
    camera: str  # empty: the data name no cameras
    frames: int  # 0: not known


class Near(NamedTuple):
    """One of the nearest gallery tracklets of a query."""

    tracklet: int
    distance: float
    is_right: bool


class RankedQuery(NamedTuple):
    """The ranked list of one query."""

    tracklet: int
    ap: float  # fraction; nan without a true match, as inp
    inp: float
    first_match: int  # position of the first true match; 0 without one
    num_right: int  # true matches in the gallery; -1: not known
    nearest: tuple[Near, ...]


class RankedLists(NamedTuple):
    """The queries that the page lists, and all tracklets that appear there."""

    tracklets: list[Shown]
    queries: list[RankedQuery]
    pictured: list[Tracklet]  # the same tracklets with their frames; [] where these are not known


class Curve(NamedTuple):
    """The CMC curve: fractions per rank 1..K."""

    values: NDArray[np.float64]  # (K,)
    low: NDArray[np.float64]  # (K,) ends of the 95 % interval at each rank
    high: NDArray[np.float64]


class CameraCell(NamedTuple):
    """Scores of the queries of one camera against one gallery camera, fractions; None without such a query."""

    num_query: int
    mAP: float | None
    rank1: float | None


class CameraTable(NamedTuple):
    """All pairs of cameras that share a person."""

    queries: list[str]
    galleries: list[str]
    cells: list[list[CameraCell]]  # a row per query camera
    left_out: list[str]  # cameras without any pair


class Distances(NamedTuple):
    """Densities of the distances of true and false pairs."""

    edges: NDArray[np.float64]  # (bins + 1,)
    true: NDArray[np.float64]  # (bins,)
    false: NDArray[np.float64]
    num_true: int
    num_false: int
    sampled: int  # queries whose false pairs were looked at
    num_query: int


class MapPoint(NamedTuple):
    """A tracklet in the map of features."""

    x: float
    y: float
    person: str
    camera: str
    name: str


def rank_lists(evaluation: Evaluation, splits: ReIDSplits) -> RankedLists:
    """The lists behind the scores: `evaluation.rankings` and `evaluation.dist_QG`, the ten nearest of each query."""
    gallery, offset = evaluation.gallery, 0 if evaluation.protocol.gallery_includes_query else evaluation.num_query
    place: dict[int, int] = {}  # row of `evaluation.tracklets` -> number on the page
    queries = []
    scores = [r.average_precision for r in evaluation.rankings]
    g_pids = np.array([t.pid for t in gallery])
    for row in _chosen(scores):
        ranking, query = evaluation.rankings[row], evaluation.query[row]
        own = place.setdefault(row, len(place))
        nearest = tuple(
            Near(
                place.setdefault(int(item) + offset, len(place)),
                float(evaluation.dist_QG[row, item]),
                gallery[item].pid == query.pid,
            )
            for item in ranking.order[:NEAREST]
        )
        num_right = int((g_pids[ranking.order] == query.pid).sum())
        ap, inp, first = ranking.average_precision, ranking.inverse_negative_penalty, ranking.first_match
        queries.append(RankedQuery(own, ap, inp, first, num_right, nearest))
    pictured = [evaluation.tracklets[row] for row in place]
    return RankedLists([_named(t, splits) for t in pictured], queries, pictured)


def read_lists(rows: Sequence[Mapping[str, str]]) -> RankedLists:
    """The lists in ranks.csv, whose tracklets are known by name alone."""
    place: dict[tuple[str, str, str], int] = {}
    scores = [float(row["AP"] or "nan") for row in rows]
    queries = []

    def number(row: Mapping[str, str], name: str, prefix: str) -> int:
        camera = row.get(f"{prefix}camera", "")
        key = (row[name], row.get(f"{prefix}pid", ""), "" if camera == "-" else camera)
        return place.setdefault(key, len(place))

    for chosen in _chosen(scores):
        row = rows[chosen]
        own = number(row, "query", "")
        nearest = tuple(
            Near(number(row, top, f"{top}_"), float(row[f"{top}_distance"]), row[f"{top}_pid"] == row["pid"])
            for top in (f"top{place}" for place in range(1, NEAREST + 1))
            if row.get(top) and row.get(f"{top}_distance")
        )
        inp = float(row["INP"] or "nan")
        queries.append(RankedQuery(own, scores[chosen], inp, int(float(row["first_match"] or 0)), -1, nearest))
    return RankedLists([Shown(*map(printable, key), 0) for key in place], queries, [])


def _chosen(scores: Sequence[float]) -> list[int]:
    """The rows of the queries that are listed: all, or of very many some that are evenly spread over the APs."""
    if len(scores) <= MOST_QUERIES:
        return list(range(len(scores)))
    by_score = np.argsort(scores, kind="stable")  # nan last
    return sorted(by_score[np.linspace(0, len(scores) - 1, MOST_QUERIES).round().astype(int)].tolist())


def _named(tracklet: Tracklet, splits: ReIDSplits) -> Shown:
    camera = splits.camera(tracklet.camid) if splits.cameras else ""
    name, person = below(splits.root, tracklet.frames[0]), splits.person(tracklet.pid)
    return Shown(printable(name), printable(person), printable(camera), len(tracklet.frames))


def cmc_curve(first_matches: Sequence[int], num_gallery: int) -> Curve | None:
    """The curve of these positions of the first true match, with a 95 % interval at each rank.

    Queries without a match (0) do not count. The bootstrap is that of the scores (`utils.metrics.mean_intervals`). None
    where no query counts.
    """
    first = np.array([position for position in first_matches if position])  # (V,)
    if not len(first):
        return None
    ranks = np.arange(1, min(_MOST_RANK, num_gallery) + 1)
    found = (first <= ranks[:, None]).astype(np.float64)  # (K, V)
    intervals = mean_intervals(found)
    return Curve(found.mean(axis=1), intervals[:, 0], intervals[:, 1])


def camera_table(evaluation: Evaluation, cameras: Sequence[str]) -> CameraTable | None:
    """mAP and Rank-1 per pair of cameras; None for fewer than two cameras."""
    if len(cameras) < 2:
        return None
    cells: dict[tuple[int, int], CameraCell] = {}
    for pair in evaluation.camera_pairs(len(cameras)):
        scores = (pair.mAP, pair.rank1) if pair.num_query else (None, None)
        cells[pair.query_camera, pair.gallery_camera] = CameraCell(pair.num_query, *scores)
    return _table([printable(camera) for camera in cameras], cells)


def read_camera_table(rows: Sequence[Mapping[str, str]]) -> CameraTable | None:
    """The table in camera_pairs.csv; None without rows."""
    names = list(dict.fromkeys(row["query_camera"] for row in rows))
    number = {name: place for place, name in enumerate(names)}
    cells = {}
    for row in rows:
        scores = [float(row[name]) if row[name] else None for name in ("mAP", "rank1")]
        key = number[row["query_camera"]], number.get(row["gallery_camera"], -1)
        cells[key] = CameraCell(int(row["num_query"] or 0), *scores)
    return _table([printable(name) for name in names], cells) if len(names) > 1 else None


def _table(names: list[str], cells: Mapping[tuple[int, int], CameraCell]) -> CameraTable | None:
    """The table without the rows and columns of cameras that have no pair."""
    kept = [place for place in cells if cells[place].num_query]
    rows, columns = (sorted({pair[side] for pair in kept}) for side in (0, 1))
    if not kept:
        return None
    nothing = CameraCell(0, None, None)
    table = [[cells.get((row, column), nothing) for column in columns] for row in rows]
    left_out = [name for place, name in enumerate(names) if name and place not in {*rows, *columns}]
    return CameraTable([names[n] for n in rows], [names[n] for n in columns], table, left_out)


def distance_densities(evaluation: Evaluation) -> Distances | None:
    """Distances of the ranked pairs, as densities; what the camera filter leaves out does not count.

    Of a huge gallery the false pairs of some evenly spread queries are looked at, and all true ones. None without
    true or without false pairs.
    """
    g_pids = np.array([t.pid for t in evaluation.gallery])
    step = max(1, math.ceil(len(evaluation.rankings) * len(g_pids) / _MOST_DISTANCES))
    true, false = [], []
    for row, (query, ranking) in enumerate(zip(evaluation.query, evaluation.rankings)):
        is_true = g_pids[ranking.order] == query.pid
        dist = evaluation.dist_QG[row, ranking.order]
        true.append(dist[is_true])
        if row % step == 0:
            false.append(dist[~is_true])
    sampled = len(false)
    true, false = np.concatenate(true), np.concatenate(false)
    if not len(true) or not len(false):
        return None
    low, high = float(min(true.min(), false.min())), float(max(true.max(), false.max()))
    bins = int(np.clip(2 * math.sqrt(min(len(true), len(false))), *_BINS))
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    densities = [np.histogram(part, edges, density=True)[0] for part in (true, false)]
    return Distances(edges, *densities, len(true), len(false), sampled, len(evaluation.rankings))


def feature_map(evaluation: Evaluation, splits: ReIDSplits) -> list[MapPoint]:
    """t-SNE (van der Maaten and Hinton 2008) of the query persons with most tracklets; [] for too few tracklets.

    Each coordinate lies in 0..1. The seed is fixed, so that the same features give the same map on one machine.
    """
    wanted = {t.pid for t in evaluation.query}
    counts = Counter(t.pid for t in evaluation.tracklets if t.pid in wanted)
    people = sorted(counts, key=lambda pid: (-counts[pid], pid))[:_IDENTITIES]
    rows = []
    for pid in people:
        own = [row for row, t in enumerate(evaluation.tracklets) if t.pid == pid]
        rows += [own[n] for n in sorted({round(n) for n in np.linspace(0, len(own) - 1, _PER_IDENTITY)})]
    if len(rows) < _LEAST_POINTS:
        return []
    from sklearn.manifold import TSNE  # takes a second to import

    features = evaluation.features[rows]
    features = l2_normalize(features) if evaluation.protocol.feat_norm else features
    if not np.ptp(features, axis=0).any():
        return []
    tsne = TSNE(perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=0)
    places = tsne.fit_transform(features)
    low = places.min(axis=0)
    places = (places - low) / np.maximum(np.ptp(places, axis=0), 1e-9)
    named = [_named(evaluation.tracklets[row], splits) for row in rows]
    return [MapPoint(float(x), float(y), t.person, t.camera, t.name) for (x, y), t in zip(places, named)]
