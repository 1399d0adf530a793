"""Validation tracklets from training identities, so that an epoch can be chosen without the test set."""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from datasets.tracklet import Tracklet
from utils.errors import InputError


class HeldOut(NamedTuple):
    """Training tracklets, divided by identity."""

    train: list[Tracklet]
    query: list[Tracklet]
    gallery: list[Tracklet]


def hold_out(tracklets: Sequence[Tracklet], fraction: float, seed: int) -> HeldOut:
    """Take `fraction` of the identities (at least two), drawn by `seed`, out of training.

    The first tracklet per identity and camera is a query, the others are gallery, as in MARS. Only identities with
    tracklets in two cameras can be drawn, or with two tracklets where the set has one camera. Raises InputError when
    these are too few, or fewer than two identities remain to train with.
    """
    cameras = len({t.camid for t in tracklets})
    views: dict[int, set[int]] = defaultdict(set)
    for index, t in enumerate(tracklets):
        views[t.pid].add(t.camid if cameras > 1 else index)
    eligible = sorted(pid for pid, seen in views.items() if len(seen) > 1)
    count = max(2, round(fraction * len(views)))
    if len(eligible) < count or len(views) - count < 2:
        where = " in two cameras" if cameras > 1 else ""
        raise InputError(
            f"SOLVER.SELECT_BY val: {count} of {len(views)} training identities cannot be held out "
            f"(DATASETS.VAL_FRACTION {fraction}; {len(eligible)} of them have two tracklets{where})"
        )
    drawn = set(random.Random(seed).sample(eligible, count))
    train, query, gallery, with_query = [], [], [], set()
    for t in tracklets:
        if t.pid not in drawn:
            train.append(t)
        elif (t.pid, t.camid) not in with_query:
            with_query.add((t.pid, t.camid))
            query.append(t)
        else:
            gallery.append(t)
    return HeldOut(train, query, gallery)
