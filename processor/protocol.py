"""How tracklets are compared: the protocol of a test."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.matching import have_true_match
from datasets.tracklet import Tracklet
from utils.errors import InputError


@dataclass(frozen=True)
class EvalProtocol:
    """How tracklets are compared; written into metrics.json beside the scores."""

    dataset: str
    sampling: str  # 'dense' or 'first'
    gallery_includes_query: bool
    neck_feat: str = "before"
    feat_norm: bool = True
    precision: str = "float32"  # of the features: 'float32', 'tf32', 'bfloat16', 'float16'
    camera_embedding: bool = True
    re_ranking: tuple[int, int, float] | None = None  # (k1, k2, lambda)
    same_camera_filter: bool = True  # leave out the query's person in the query's camera
    ap: str = "step"  # or 'trapezoid'
    split: str = ""  # of a data set that has several
    train_half: str = ""  # the half of that split that was trained on
    left_out: str = ""  # by DATASETS.EXCLUDE, in words

    def describe(self) -> dict:
        """The fields as a plain dict for JSON, without those that are empty texts."""
        described = {name: value for name, value in asdict(self).items() if value != ""}
        if self.re_ranking is not None:
            described["re_ranking"] = dict(zip(("k1", "k2", "lambda"), self.re_ranking))
        return described

    def own_rows(self, num_query: int) -> NDArray[np.int64] | None:
        """The gallery row of each query itself (Q,): a gallery with queries begins with them; None without them."""
        return np.arange(num_query) if self.gallery_includes_query else None


def check_scorable(protocol: EvalProtocol, query: Sequence[Tracklet], gallery: Sequence[Tracklet]) -> None:
    """Raise InputError when no query has a true match; `gallery` is without the queries. Nothing is computed yet."""
    if any(have_true_match(query, gallery, protocol.gallery_includes_query, protocol.same_camera_filter)):
        return
    ranked = {t.pid for t in ((*query, *gallery) if protocol.gallery_includes_query else gallery)}
    hint = " in another camera (TEST.SAME_CAMERA_FILTER)" if any(t.pid in ranked for t in query) else ""
    raise InputError(
        f"{protocol.dataset} cannot be scored: none of {len(query)} queries has a true match in the gallery{hint}"
    )
