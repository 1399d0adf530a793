"""What sampling, batches, ranking and re-ranking promise, for sizes and ties that nobody thought of."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import strategies as st

from datasets.clips.identity_sampler import IdentitySampler
from datasets.clips.sampling import dense_clips, first_per_chunk, random_per_chunk
from datasets.items import TrainItems
from datasets.tracklet import Tracklet
from tests.tolerance import allowed
from tests.utils.test_metrics import slow_ranking
from tests.utils.test_reranking import textbook
from utils.errors import InputError, printable
from utils.metrics import evaluate_ranking, rank_camera_pairs, rank_features, rank_queries
from utils.ranking import Roles
from utils.reranking import k_reciprocal_rerank


def test_frames_of_clips(fuzz):
    def work(drawn) -> bool:
        frames, length, seed = drawn
        dense = dense_clips(frames, length)
        assert [len(clip) for clip in dense] == [length] * -(-frames // length)
        flat = [index for clip in dense for index in clip]
        assert flat[:frames] == list(range(frames))  # every frame once, in order, before the last clip cycles
        assert set(flat[frames:]) <= set(dense[-1][: frames - (len(dense) - 1) * length])
        first, drawn_at_random = first_per_chunk(frames, length), random_per_chunk(frames, length, random.Random(seed))
        size = -(-frames // length)
        for clip in (first, drawn_at_random):
            assert len(clip) == length and clip == sorted(clip) and 0 <= clip[0] and clip[-1] < frames
            assert all(min(n * size, frames - 1) <= index < max((n + 1) * size, frames) for n, index in enumerate(clip))
        if frames <= length:
            assert first == drawn_at_random == [min(index, frames - 1) for index in range(length)]
        return True

    fuzz(100, st.tuples(st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**32)), work)


def test_clips_need_frames(fuzz):
    def work(drawn) -> bool:
        for sample in (dense_clips, first_per_chunk, lambda n, t: random_per_chunk(n, t, random.Random(0))):
            with pytest.raises(ValueError, match="a clip needs at least one frame"):
                sample(*drawn)
        return False

    few, any_number = st.integers(max_value=0), st.integers()
    fuzz(20, st.one_of(st.tuples(few, any_number), st.tuples(any_number, few)), work)


def test_items_cover_their_tracklets(fuzz):
    def work(drawn) -> bool:
        frames, kind, length, step = drawn
        whole = tuple(map(str, range(frames)))
        cut = TrainItems(kind, length, step).cut([Tracklet(whole, 3, 1)])
        assert cut and all((item.pid, item.camid) == (3, 1) and item.frames for item in cut)
        joined = [frame for item in cut for frame in item.frames]
        if kind == "windows" and frames > length:
            assert all(len(item.frames) == length for item in cut) and set(joined) <= set(whole)
        else:
            assert tuple(joined) == whole
        return True

    kinds = st.sampled_from(["tracklets", "chunks", "windows"])
    fuzz(60, st.tuples(st.integers(1, 200), kinds, st.integers(1, 60), st.integers(1, 60)), work)


def test_batches_of_identities(fuzz):
    def work(drawn) -> bool:
        pids, identities, instances, seed, epoch = drawn
        try:
            sampler = IdentitySampler(pids, identities * instances, instances, seed)
        except InputError:
            assert len(set(pids)) < identities
            return False
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) and sampler.batches == batches
        used: Counter[int] = Counter()
        counts = Counter(pids)
        for batch in batches:
            rows = [row for row, _ in batch]
            in_batch = Counter(pids[row] for row in rows)
            assert len(in_batch) == identities and set(in_batch.values()) == {instances}
            for pid in in_batch:
                own = [row for row in rows if pids[row] == pid]
                assert len(set(own)) == instances or counts[pid] < instances  # with replacement only where it must
            used.update(rows)
        assert all(count == 1 or counts[pids[row]] < instances for row, count in used.items())
        sampler.set_epoch(epoch)
        assert sampler.batches == batches
        return True

    pids = st.lists(st.integers(-2, 8), min_size=1, max_size=60)
    small = st.integers(1, 5)
    fuzz(60, st.tuples(pids, small, small, st.integers(0, 2**64 - 1), st.integers(0, 10**6)), work)


@st.composite
def searches(draw):
    """Features on a coarse grid, so that ties are real and sums exact, with persons and cameras."""
    queries, gallery, width = draw(st.integers(1, 6)), draw(st.integers(1, 14)), draw(st.integers(1, 3))
    number = st.integers(-8, 8).map(lambda value: value / 4)
    row, count = st.lists(number, min_size=width, max_size=width), queries + gallery
    rows = st.lists(row, min_size=count, max_size=count)
    ids = st.lists(st.integers(0, 3), min_size=count, max_size=count)
    features, pids, camids = np.array(draw(rows), np.float32), draw(ids), draw(ids)
    return features[:queries], features[queries:], pids[:queries], pids[queries:], camids[:queries], camids[queries:]


def test_ranking_is_that_of_a_plain_loop(fuzz):
    def work(drawn) -> bool:
        (q, g, *roles), ap, camera_filter = drawn
        dist = ((q[:, None] - g[None]) ** 2).sum(axis=2)
        precisions, firsts, penalties = slow_ranking(dist, *roles, ap, camera_filter)
        if not firsts:
            for evaluate, items in ((evaluate_ranking, (dist,)), (rank_features, (q, g))):
                with pytest.raises(ValueError, match="true match"):
                    evaluate(*items, *roles, ap=ap, camera_filter=camera_filter)
            return False
        by_distance = evaluate_ranking(dist, *roles, ap=ap, camera_filter=camera_filter)
        by_features = rank_features(q, g, *roles, ap=ap, camera_filter=camera_filter)
        for result in (by_distance, by_features):
            assert result["mAP"] == pytest.approx(np.mean(precisions), abs=1e-12)
            assert result["mINP"] == pytest.approx(np.mean(penalties), abs=1e-12)
            assert result["num_valid"] == len(firsts)
            expected = [np.mean([first <= k for first in firsts]) for k in range(1, min(50, len(g)) + 1)]
            assert result["cmc"].tolist() == pytest.approx(expected)
        ranked = rank_queries(dist, Roles(*roles, camera_filter=camera_filter), ap)
        assert [r.first_match for r in ranked if r.first_match] == firsts
        return True

    fuzz(60, st.tuples(searches(), st.sampled_from(["step", "trapezoid"]), st.booleans()), work)


def test_camera_pairs_add_up(fuzz):
    def work(drawn) -> bool:
        q, g, *roles = drawn
        dist = ((q[:, None] - g[None]) ** 2).sum(axis=2)
        pairs = rank_camera_pairs(dist, Roles(*roles, camera_filter=False), 4)
        assert [pair[:2] for pair in pairs] == [(i, j) for i in range(4) for j in range(4)]
        for pair in pairs:
            asked = [
                any(gp == qp and gc == pair.gallery_camera for gp, gc in zip(roles[1], roles[3]))
                for qp, qc in zip(roles[0], roles[2]) if qc == pair.query_camera
            ]  # fmt: skip
            assert pair.num_query == sum(asked)
            assert np.isnan(pair.mAP) if not pair.num_query else 0 < pair.mAP <= 1
        return True

    fuzz(30, searches(), work)


def test_re_ranking_is_the_textbooks(fuzz):
    def work(drawn) -> bool:
        (q, g, *_), k1, k2, weight, seed = drawn
        # Noise in steps of 1/512 breaks ties, about which the order of a stable sort alone decides.
        noise = np.random.default_rng(seed).integers(-100, 100, (len(q) + len(g), q.shape[1])).astype(np.float32) / 512
        q, g = q + noise[: len(q)], g + noise[len(q) :]
        if len(np.unique(np.concatenate([q, g]), axis=0)) < len(q) + len(g) or len(q) + len(g) < 2:
            return False
        found = k_reciprocal_rerank(q, g, k1, k2, weight)
        assert found.shape == (len(q), len(g)) and np.isfinite(found).all()
        assert found.min() >= -1e-5 and found.max() <= 1 + 1e-5
        expected = textbook(q, g, k1, k2, weight)
        assert np.abs(found - expected).max() <= allowed(1, terms=len(q) + len(g), passes=4)
        return True

    sizes = st.integers(1, 25)
    fuzz(60, st.tuples(searches(), sizes, sizes, st.floats(0, 1), st.integers(0, 2**32)), work)


def test_texts_are_made_printable(fuzz):
    def work(text: str) -> bool:
        line = printable(text)
        assert line.isprintable() and printable(line) == line and str(InputError(text)) == line
        return True

    fuzz(50, st.text(st.characters(), max_size=40), work)
