"""Seconds and memory of re-ranking beside the textbook.

    python -m tests.compare_reranking [--queries 1980 --gallery 11310 --width 2048 --k1 20 --k2 6 --kind people]

The gallery holds the queries first, as in the MARS protocol. Every row is a fresh process; memory is the peak over what
the process held with its inputs read, from Linux' /proc. Where other work shares the machine, CPU seconds tell more.
Needs a few GB at the default size, and a few minutes.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from utils.reranking import k_reciprocal_rerank

LAMBDA = 0.3


def features_like(kind: str, count: int, width: int, seed: int = 0) -> np.ndarray:
    """Features (count, width) float32 of unit length: of people seen by six cameras, or 'random'.

    As in MARS, about one tracklet in four is a distractor; the others belong to identities of about 13 tracklets.
    """
    rng = np.random.default_rng(seed)
    if kind == "random":
        features = rng.standard_normal((count, width), dtype=np.float32)
    else:
        num_distractors = count * 2 // 7
        num_people = max(1, (count - num_distractors) // 13)
        person = np.concatenate(
            [rng.integers(num_people, size=count - num_distractors), num_people + np.arange(num_distractors) // 3]
        )
        latent = 64  # trained features fill few directions
        centres = rng.standard_normal((person.max() + 1, latent), dtype=np.float32)
        cameras = 0.4 * rng.standard_normal((6, latent), dtype=np.float32)
        seen = centres[person] + cameras[rng.integers(6, size=count)]
        seen += 0.7 * rng.standard_normal((count, latent), dtype=np.float32)
        features = seen @ rng.standard_normal((latent, width), dtype=np.float32) / latent**0.5
        features += 0.3 * rng.standard_normal((count, width), dtype=np.float32)
        features = features[rng.permutation(count)]
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def product(q_feats: np.ndarray, g_feats: np.ndarray, k1: int, k2: int) -> None:
    """One product of all items with all, which every implementation needs in some form."""
    features = torch.from_numpy(np.concatenate([q_feats, g_feats]))
    features @ features.clone().T  # a product with itself may be computed by half


def textbook(q_feats: np.ndarray, g_feats: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """Zhong et al. 2017, section 3, with dense float32 matrices (N, N)."""
    num_query = len(q_feats)
    features = np.concatenate([q_feats, g_feats])
    squares = np.square(features).sum(axis=1)
    # torch's product, in which copies of an item are equally near; numpy's rounds by the place of a row.
    dist = torch.from_numpy(features) @ torch.from_numpy(features).T
    dist = np.maximum(squares[:, None] + squares - 2 * dist.numpy(), 0)
    dist /= dist.max(axis=1, keepdims=True)
    ranking = np.argsort(dist, axis=1, kind="stable").astype(np.int32)
    num_items = len(dist)

    def reciprocal(item: int, k: int) -> np.ndarray:
        forward = ranking[item, : k + 1]
        return forward[(ranking[forward, : k + 1] == item).any(axis=1)]

    weights = np.zeros_like(dist)
    for item in range(num_items):
        own = reciprocal(item, k1)
        members = own
        for other in own:
            theirs = reciprocal(other, round(k1 / 2))
            if 3 * len(np.intersect1d(theirs, own)) > 2 * len(theirs):
                members = np.append(members, theirs)
        members = np.unique(members)
        affinities = np.exp(-dist[item, members])
        weights[item, members] = affinities / affinities.sum()
    dist = dist[:num_query]
    if k2 > 1:
        expanded = np.empty_like(weights)
        for item in range(num_items):
            expanded[item] = weights[ranking[item, :k2]].mean(axis=0)
        weights = expanded
    owners = [np.flatnonzero(weights[:, column]) for column in range(num_items)]
    jaccard = np.empty((num_query, num_items), dtype=np.float32)
    for query in range(num_query):
        smaller = np.zeros(num_items, dtype=np.float32)
        for column in np.flatnonzero(weights[query]):
            smaller[owners[column]] += np.minimum(weights[query, column], weights[owners[column], column])
        jaccard[query] = 1 - smaller / (2 - smaller)
    return (1 - LAMBDA) * jaccard[:, num_query:] + LAMBDA * dist[:, num_query:]


def ours(q_feats: np.ndarray, g_feats: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """The project's."""
    return k_reciprocal_rerank(q_feats, g_feats, k1, k2, LAMBDA)


ROWS: dict[str, Callable] = {"one N x N product": product, "textbook": textbook, "ours": ours}


def _peak_gib() -> float:
    """The most memory this process has held; unlike getrusage's figure it does not count the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def measure(name: str, num_query: int, k1: int, k2: int, folder: Path) -> tuple[float, float, float]:
    """Seconds, seconds of all processors together and peak GiB over the inputs of one row.

    Its distances go to a file. Runs in a process of its own.
    """
    gallery = np.load(folder / "gallery.npy")
    query = gallery[:num_query].copy()
    torch.ones(64, 64) @ torch.ones(64, 64)  # the library's threads start here
    held = _peak_gib()
    start, start_cpu = time.perf_counter(), time.process_time()
    distances = ROWS[name](query, gallery, k1, k2)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    peak = _peak_gib() - held
    if distances is not None:
        np.save(folder / f"{name}.npy", distances)
    return seconds, cpu_seconds, peak


def main(argv: list[str]) -> int:
    """Print the table; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.compare_reranking", description="Re-ranking, side by side.")
    parser.add_argument("--queries", type=int, default=1980)
    parser.add_argument("--gallery", type=int, default=11310, help="gallery items, the queries among them")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--k1", type=int, default=20)
    parser.add_argument("--k2", type=int, default=6)
    parser.add_argument("--kind", choices=("people", "random"), default="people")
    given = parser.parse_args(argv)
    if not 1 <= given.queries <= given.gallery:
        parser.error("--queries must be 1..--gallery")
    lines = [f"{'':20}{'seconds':>10}{'CPU s':>10}{'peak GiB':>10}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "gallery.npy", features_like(given.kind, given.gallery, given.width))
        for row in ROWS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                figures = pool.apply(measure, (row, given.queries, given.k1, given.k2, folder))
            lines.append(f"{row:20}" + "".join(f"{figure:10.2f}" for figure in figures))
        difference = np.abs(np.load(folder / "textbook.npy") - np.load(folder / "ours.npy")).max()
    lines.append(f"largest difference of the distances: {difference:.1e}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
