"""Which queries have a true match in the gallery: the rule that the test and the check of a data set share."""

from collections import Counter
from collections.abc import Sequence

from datasets.tracklet import Tracklet


def have_true_match(
    query: Sequence[Tracklet], gallery: Sequence[Tracklet], includes_query: bool, camera_filter: bool
) -> list[bool]:
    """For each query whether the ranked gallery holds its person beyond what is left out for it.

    `gallery` is without queries; `includes_query` puts them in front of it. With `camera_filter` the query's person in
    the query's camera is left out, which includes the query itself; without it the query alone is.
    """
    ranked = (*query, *gallery) if includes_query else gallery
    of_person = Counter(t.pid for t in ranked)
    of_view = Counter((t.pid, t.camid) for t in ranked)
    left_out = (of_view[t.pid, t.camid] if camera_filter else int(includes_query) for t in query)
    return [of_person[t.pid] > count for t, count in zip(query, left_out)]
