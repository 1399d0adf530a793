"""Which queries have a true match in the gallery: one rule for the test and for the check of a data set."""

from collections import Counter
from collections.abc import Sequence

from datasets.tracklet import Tracklet


def have_true_match(
    query: Sequence[Tracklet], gallery: Sequence[Tracklet], includes_query: bool, camera_filter: bool
) -> list[bool]:
    """For each query whether the gallery that is ranked for it holds its person.

    `gallery` is without queries; `includes_query` adds them. With `camera_filter` tracklets of the query's person in
    the query's camera are left out of its gallery, the query among them; without it only the query itself is.
    """
    ranked = (*query, *gallery) if includes_query else gallery
    of_person = Counter(t.pid for t in ranked)
    of_view = Counter((t.pid, t.camid) for t in ranked)
    left_out = (of_view[t.pid, t.camid] if camera_filter else int(includes_query) for t in query)
    return [of_person[t.pid] > count for t, count in zip(query, left_out)]
