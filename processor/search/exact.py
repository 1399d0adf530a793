"""The nearest gallery features of each query, by reading all of them in blocks, from memory or mapped from the disk.

Q queries, G gallery features, F their width, B gallery features of a block, K neighbours that are kept.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.errors import InputError
from utils.precision import autocast, float32_products
from utils.progress import progress

_BLOCK_BYTES = 2**24  # of gallery features in float32: they stay in the processor's cache while they are compared
_QUERIES = 1024  # whose distances to a block are held at once
_SPARE = 16  # neighbours kept beyond those asked for, because distances in float32 are rounded


def exact_nearest(
    gallery_GF: NDArray, queries_QF: NDArray, top: int, device: torch.device | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows and Euclidean distances (Q, top) of the nearest gallery features, or (Q, G) of fewer.

    The same as sorting all distances, computed in float64 and stored in float32, in a stable way: of equal ones the
    first row comes first. A quick pass in float32 on `device`, by default the CPU, chooses candidates; it goes on with
    more of them where its rounding might have hidden a neighbour. Raises InputError for features that are not finite.
    """
    queries_QF = np.ascontiguousarray(queries_QF, np.float32)
    check_finite(queries_QF, "a query")
    top = min(top, len(gallery_GF))
    rows_QK, dist_QK = np.empty((len(queries_QF), top), np.int64), np.empty((len(queries_QF), top), np.float32)
    pending, kept = np.arange(len(queries_QF)), min(top + _SPARE, len(gallery_GF))
    while len(pending):
        candidates_QK, quick_Q, slack_Q = _candidates(gallery_GF, queries_QF[pending], kept, device)
        rows_QK[pending], dist_QK[pending] = nearest_of(gallery_GF, queries_QF[pending], candidates_QK, top)
        unsure_Q = quick_Q <= np.square(dist_QK[pending, -1]) + slack_Q
        pending = pending[unsure_Q & (kept < len(gallery_GF))]
        kept = min(4 * kept, len(gallery_GF))
    return rows_QK, dist_QK


def nearest_of(
    gallery_GF: NDArray, queries_QF: NDArray[np.float32], candidates_QK: NDArray[np.int64], top: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows and distances (Q, top) of the nearest among the candidate rows of each query; -1 stands for none."""
    rows_QK, dist_QK = np.empty((len(queries_QF), top), np.int64), np.empty((len(queries_QF), top), np.float32)
    for query, rows in enumerate(candidates_QK):
        rows = np.sort(rows[rows >= 0])  # ascending also on the disk
        differences = gallery_GF[rows].astype(np.float64) - queries_QF[query]
        dist = np.sqrt(np.square(differences).sum(axis=1)).astype(np.float32)
        nearest = np.argsort(dist, kind="stable")[:top]
        rows_QK[query], dist_QK[query] = rows[nearest], dist[nearest]
    return rows_QK, dist_QK


def block_rows(width: int) -> int:
    """How many features of this width make a block."""
    return max(1, _BLOCK_BYTES // (4 * width))


def check_finite(features: NDArray, what: str) -> None:
    """Raise InputError naming `what` and the row unless all features (n, F) are finite and can be squared."""
    with np.errstate(over="ignore", invalid="ignore"):
        sound = np.isfinite(np.einsum("nf,nf->n", features, features))
    if not sound.all():
        raise InputError(f"{what} holds nan or inf, or is too large to square: row {int(np.argmin(sound))} (from 0)")


def _candidates(
    gallery_GF: NDArray, queries_QF: NDArray[np.float32], kept: int, device: torch.device | None
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Rows (Q, K) of the smallest squared distances in float32, the largest kept (Q,), bound of their error (Q,)."""
    device = device or torch.device("cpu")
    queries = torch.from_numpy(queries_QF).to(device)
    squares_Q = queries.square().sum(dim=1)
    keys_QK = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    largest = torch.zeros((), device=device)
    size = block_rows(gallery_GF.shape[1])
    blocks = progress(range(0, len(gallery_GF), size), "search", "block")
    with torch.inference_mode(), float32_products(False), autocast(device, None):
        for start in blocks:
            block_BF = torch.from_numpy(np.ascontiguousarray(gallery_GF[start : start + size])).to(device).float()
            squares_B = torch.linalg.vector_norm(block_BF, dim=1).square_()
            if not bool(squares_B.isfinite().all()):
                row = start + int(squares_B.isfinite().int().argmin())
                raise InputError(f"the gallery holds nan or inf, or is too large to square: row {row} (from 0)")
            largest = torch.maximum(largest, squares_B.max())
            rows_B = torch.arange(start, start + len(block_BF), device=device)
            parts = []
            for part in range(0, len(queries), _QUERIES):
                dist_QB = squares_Q[part : part + _QUERIES, None] + squares_B
                dist_QB.sub_(queries[part : part + _QUERIES] @ block_BF.T, alpha=2).clamp_(min=0)
                # Distances are not negative, so that their bits, and after these the rows, order as they do.
                keys_QB = dist_QB.abs_().view(torch.int32).long().bitwise_left_shift_(32).bitwise_or_(rows_B)
                parts.append(_smallest(torch.cat([keys_QK[part : part + _QUERIES], keys_QB], dim=1), kept))
            keys_QK = torch.cat(parts)
    keys = keys_QK.cpu().numpy()
    quick_QK = (keys >> 32).astype(np.int32).view(np.float32)
    slack_Q = (squares_Q + largest).cpu().numpy() * np.float32(4e-7) * np.sqrt(gallery_GF.shape[1])
    return keys & 0xFFFFFFFF, quick_QK.max(axis=1), slack_Q


def _smallest(keys_Qn: Tensor, kept: int) -> Tensor:
    return keys_Qn.topk(min(kept, keys_Qn.shape[1]), dim=1, largest=False, sorted=False).values
