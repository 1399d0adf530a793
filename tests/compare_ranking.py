"""Seconds and memory of CMC and mAP from features, beside a plain sort of all rows and beside open-metric-learning.

    python -m tests.compare_ranking [--queries 1980 --gallery 11310 --width 2048 --kind clusters] [--peer-python PYTHON]

Each program runs in a process of its own; its memory is what the peak rises by after the inputs are there.
`--peer-python` is the interpreter of an environment that has open-metric-learning, where this one has not.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
TITLES = {
    "product": "bare product q @ g.T",
    "ours": "utils.metrics.rank_features",
    "argsort": "distance matrix, argsort of each row",
    "oml": "open-metric-learning",
}
Given = tuple[NDArray, NDArray, NDArray, NDArray, NDArray, NDArray]


def made_features(queries: int, gallery: int, width: int, kind: str) -> Given:
    """Features (Q, F), (G, F) float32 with persons (Q,), (G,) and cameras (Q,), (G,), as many per person as in MARS.

    The queries stand in front of the gallery. 'clusters' lie around one centre per person, 'random' features know none.
    """
    rng = np.random.default_rng(0)
    persons = max(1, gallery // 18)
    pids, camids = rng.integers(0, persons, gallery), rng.integers(0, 6, gallery)
    features = rng.standard_normal((gallery, width), dtype=np.float32)
    if kind == "clusters":
        features *= 2.5
        centres = rng.standard_normal((persons, width), dtype=np.float32)
        for row, pid in enumerate(pids):
            features[row] += centres[pid]
    return features[:queries].copy(), features, pids[:queries], pids, camids[:queries], camids


def argsort_scores(
    q_feats: NDArray, g_feats: NDArray, q_pids: NDArray, g_pids: NDArray, q_camids: NDArray, g_camids: NDArray
) -> tuple[float, NDArray[np.float64]]:
    """mAP and CMC (G,) the plain way: distance matrix, stable sort of every row, a loop with the camera filter."""
    squares_QG = np.square(q_feats).sum(axis=1)[:, None] + np.square(g_feats).sum(axis=1)
    dist_QG = np.sqrt(np.maximum(squares_QG - 2 * (q_feats @ g_feats.T), 0))
    return sorted_scores(dist_QG, q_pids, g_pids, q_camids, g_camids)


def sorted_scores(
    dist_QG: NDArray, q_pids: NDArray, g_pids: NDArray, q_camids: NDArray, g_camids: NDArray
) -> tuple[float, NDArray[np.float64]]:
    """mAP and CMC (G,) of distances (Q, G) by a stable sort of every row."""
    order_QG = np.argsort(dist_QG, axis=1, kind="stable")
    precisions, cmc = [], np.zeros(len(g_pids))
    for order, pid, camid in zip(order_QG, q_pids, q_camids):
        kept = order[(g_pids[order] != pid) | (g_camids[order] != camid)]
        hits = g_pids[kept] == pid
        if hits.any():
            precisions.append((np.cumsum(hits) / np.arange(1, len(kept) + 1))[hits].mean())
            cmc[np.argmax(hits) :] += 1
    return float(np.mean(precisions)), cmc / len(precisions)


def _of_product(q_feats: NDArray, g_feats: NDArray, *ids: NDArray) -> None:
    np.matmul(q_feats, g_feats.T)


def _of_ours(*given: NDArray) -> tuple[float, float, float]:
    from utils.metrics import rank_features  # here: the environment of the other library need not load it

    scores = rank_features(*given)
    return scores["mAP"], scores["rank1"], scores["rank10"]


def _of_argsort(*given: NDArray) -> tuple[float, float, float]:
    mean_ap, cmc = argsort_scores(*given)
    return mean_ap, cmc[0], cmc[9]


def _of_oml(
    q_feats: NDArray, g_feats: NDArray, q_pids: NDArray, g_pids: NDArray, q_camids: NDArray, g_camids: NDArray
) -> tuple[float, float, float]:
    """Its search over the whole gallery, then its scores; its 'sequences', left out of a search, are our views."""
    import torch
    from oml.functional.knn import batched_knn_qg
    from oml.functional.metrics import calc_retrieval_metrics

    of_query = [torch.from_numpy(x) for x in (q_feats, q_pids, q_pids * 64 + q_camids)]
    of_gallery = [torch.from_numpy(x) for x in (g_feats, g_pids, g_pids * 64 + g_camids)]
    _, retrieved, truth = batched_knn_qg(
        of_query[0],
        of_gallery[0],
        top_n=len(g_feats),
        labels_query=of_query[1],
        labels_gallery=of_gallery[1],
        sequence_ids_query=of_query[2],
        sequence_ids_gallery=of_gallery[2],
    )
    found = calc_retrieval_metrics(
        retrieved, truth, cmc_top_k=(1, 10), precision_top_k=(), map_top_k=(len(g_feats),), reduce=False, verbose=False
    )
    is_valid = torch.tensor([len(rows) > 0 for rows in truth])
    values = (found["map"][len(g_feats)], found["cmc"][1], found["cmc"][10])
    return tuple(float(value[is_valid].double().mean()) for value in values)


RUNS: dict[str, Callable] = {"product": _of_product, "ours": _of_ours, "argsort": _of_argsort, "oml": _of_oml}


def _child(program: str, folder: Path) -> None:
    """Print 'seconds bytes mAP Rank-1 Rank-10' of one call of the program."""
    RUNS[program](*made_features(8, 72, 16, "clusters"))  # libraries are loaded and threads started now
    given = [np.load(folder / f"{number}.npy") for number in range(6)]
    before, start = _peak_bytes(), time.perf_counter()
    scores = RUNS[program](*given)
    print(time.perf_counter() - start, _peak_bytes() - before, *(map(float, scores or ())))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _measured(program: str, python: str, folder: Path) -> list[float]:
    command = [python, "-m", "tests.compare_ranking", "--child", program, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} failed:\n{done.stderr}")
    return [float(word) for word in done.stdout.split()]


def _has_oml(python: str) -> bool:
    return not subprocess.run(
        [python, "-c", "import oml.functional.metrics"], capture_output=True, check=False
    ).returncode


def _table(results: dict[str, list[list[float]]]) -> str:
    """One line per program: its fastest round, its largest memory, its scores."""
    lines = [f"{'':38}{'seconds':>9}{'x product':>11}{'MB beside':>11}{'mAP':>12}{'Rank-1':>10}{'Rank-10':>10}"]
    product = min(round_[0] for round_ in results["product"])
    for program, rounds in results.items():
        seconds, megabytes = min(r[0] for r in rounds), max(r[1] for r in rounds) / 1e6
        scores = "".join(f"{score:{width}}" for score, width in zip(rounds[0][2:], ("12.8f", "10.6f", "10.6f")))
        lines.append(f"{TITLES[program]:38}{seconds:9.2f}{seconds / product:11.2f}{megabytes:11.0f}{scores}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Measure every program in turn, `--repeats` times round, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("queries", 1980), ("gallery", 11310), ("width", 2048), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--kind", choices=("clusters", "random"), default="clusters")
    parser.add_argument("--peer-python", default=sys.executable)
    arguments = parser.parse_args(argv)
    python = dict.fromkeys(RUNS, sys.executable) | {"oml": arguments.peer_python}
    if not _has_oml(arguments.peer_python):
        print(f"left out: {arguments.peer_python} has no open-metric-learning")
        del python["oml"]
    results: dict[str, list[list[float]]] = {program: [] for program in python}
    with tempfile.TemporaryDirectory() as folder:
        given = made_features(arguments.queries, arguments.gallery, arguments.width, arguments.kind)
        for number, array in enumerate(given):
            np.save(Path(folder) / f"{number}.npy", array)
        del given
        for _ in range(arguments.repeats):
            for program, rounds in results.items():
                rounds.append(_measured(program, python[program], Path(folder)))
    shape = f"{arguments.queries:,} queries, {arguments.gallery:,} gallery items, {arguments.width:,} values"
    print(f"{shape}, {arguments.kind}; best of {arguments.repeats}\n{_table(results)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], Path(sys.argv[3]))
    else:
        main(sys.argv[1:])
