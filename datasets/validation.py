"""Validation tracklets from training identities, so that an epoch can be chosen without the test set."""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from datasets.tracklet import Tracklet
from utils.errors import InputError


class HeldOut(NamedTuple):
    """Training tracklets parted by identity."""

    train: list[Tracklet]
    query: list[Tracklet]
    gallery: list[Tracklet]


def hold_out(tracklets: Sequence[Tracklet], fraction: float, seed: int) -> HeldOut:
    """Take `fraction` of the identities (at least two) out of training, drawn by `seed`.

    One tracklet per identity and camera is a query, the others are gallery, as in MARS; an identity needs two tracklets
    to be drawn, in two cameras where the set has several. Raises InputError when too few identities are left.
    """
    cameras = len({t.camid for t in tracklets})
    views: dict[int, set[int]] = defaultdict(set)
    for index, t in enumerate(tracklets):
        views[t.pid].add(t.camid if cameras > 1 else index)
    fit = sorted(pid for pid, seen in views.items() if len(seen) > 1)
    count = max(2, round(fraction * len(views)))
    if len(fit) < count or len(views) - count < 2:
        where = " in two cameras" if cameras > 1 else ""
        raise InputError(
            f"SOLVER.SELECT_BY val: {count} of {len(views)} training identities cannot be held out "
            f"(DATASETS.VAL_FRACTION {fraction}; {len(fit)} of them have two tracklets{where})"
        )
    held = set(random.Random(seed).sample(fit, count))
    train, query, gallery, asked = [], [], [], set()
    for t in tracklets:
        if t.pid not in held:
            train.append(t)
        elif (t.pid, t.camid) not in asked:
            asked.add((t.pid, t.camid))
            query.append(t)
        else:
            gallery.append(t)
    return HeldOut(train, query, gallery)
