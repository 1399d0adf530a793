"""P x K batches: structure, exact length, what is dropped, and an epoch that follows from (seed, epoch) alone."""

from collections import Counter

import pytest

from datasets.clips.identity_sampler import IdentitySampler
from utils.errors import InputError

# Identity -> number of tracklets; K = 4 gives 1 (with replacement), 1, 2, 3 and 2 groups, 9 in all.
COUNTS = {7: 2, 3: 4, 11: 9, 0: 13, 5: 8}
PIDS = [pid for repeat in range(13) for pid, count in COUNTS.items() if repeat < count]  # identities interleaved
GROUPS = {7: 1, 3: 1, 11: 2, 0: 3, 5: 2}


def sampler(batch_size=8, per_identity=4, seed=1, pids=PIDS) -> IdentitySampler:
    return IdentitySampler(pids, batch_size, per_identity, seed)


def epoch_of(made: IdentitySampler, epoch: int) -> list:
    made.set_epoch(epoch)
    return list(made)


def test_batches_of_p_identities_with_k_tracklets_are_drawn_until_fewer_than_p_identities_have_a_group():
    made, lengths = sampler(), set()
    for epoch in range(50):
        batches = epoch_of(made, epoch)
        for batch in batches:
            assert sorted(Counter(PIDS[row] for row, _ in batch).values()) == [4, 4]
            assert len({PIDS[row] for row, _ in batch[:4]}) == 1  # the tracklets of an identity stand together
        seeds = [seed for batch in batches for _, seed in batch]
        assert len(set(seeds)) == len(seeds)
        used = Counter(PIDS[row] for batch in batches for row, _ in batch)
        left = {pid: GROUPS[pid] - used[pid] // 4 for pid in COUNTS}
        assert min(left.values()) >= 0 and sum(count > 0 for count in left.values()) < 2
        assert len(made) == len(batches) == len(list(made))
        lengths.add(len(made))
    assert lengths <= {3, 4}  # 9 groups, 2 per batch; the last 3 groups may all be of identity 0


def test_no_tracklet_comes_twice_in_an_epoch_and_leftovers_are_dropped():
    dropped = Counter()
    for epoch in range(50):
        rows = Counter(row for batch in epoch_of(sampler(), epoch) for row, _ in batch)
        assert all(count == 1 for row, count in rows.items() if PIDS[row] != 7)
        of_eleven = [row for row in rows if PIDS[row] == 11]
        assert len(of_eleven) in (0, 4, 8)  # nine tracklets: at least one is left over
        dropped.update(row for row, pid in enumerate(PIDS) if pid == 11 and row not in rows)
    assert len(dropped) == 9  # which one it is changes


def test_an_identity_with_fewer_than_k_gives_k_draws_with_replacement_from_its_own():
    own = {row for row, pid in enumerate(PIDS) if pid == 7}
    drawn, shares = Counter(), set()
    for epoch in range(50):
        rows = [row for batch in epoch_of(sampler(), epoch) for row, _ in batch if PIDS[row] == 7]
        assert len(rows) in (0, 4) and set(rows) <= own
        drawn.update(rows)
        shares.add(rows.count(min(own)))
    assert set(drawn) == own and abs(drawn[min(own)] - drawn[max(own)]) < 60  # 4.2 standard deviations of 200 draws
    assert len(shares) > 2  # with replacement: not the same number of each in every epoch


def test_an_epoch_is_the_same_whatever_came_before_it():
    straight = sampler()
    run = [epoch_of(straight, epoch) for epoch in range(6)]
    assert [epoch_of(sampler(), epoch) for epoch in range(6)] == run
    assert [epoch_of(straight, epoch) for epoch in (4, 1, 4)] == [run[4], run[1], run[4]]
    assert list(sampler()) == run[0]
    others = [epoch_of(sampler(seed=2), epoch) for epoch in range(6)]
    assert len({str(batches) for batches in run + others}) == 12


def test_the_order_in_which_identities_are_listed_does_not_matter_to_their_draws():
    # Same tracklets per identity, listed in another order of identities: the same identities in the same batches.
    grouped = sorted(PIDS)
    first = [[PIDS[row] for row, _ in batch] for batch in epoch_of(sampler(), 3)]
    second = [[grouped[row] for row, _ in batch] for batch in epoch_of(sampler(pids=grouped), 3)]
    assert first == second


def test_a_batch_size_that_k_does_not_divide_and_fewer_identities_than_it_needs_are_refused():
    with pytest.raises(InputError, match="SOLVER.IMS_PER_BATCH 10 must be divisible by DATALOADER.NUM_INSTANCE 4"):
        sampler(batch_size=10)
    with pytest.raises(InputError, match="5 identities, fewer than the 6 .*lower SOLVER.IMS_PER_BATCH"):
        sampler(batch_size=24)
    assert len(sampler(batch_size=20)) == 1  # five identities: one batch takes a group of each


def test_the_batches_of_all_epochs_before_are_counted_without_a_change_of_epoch():
    made, lengths = sampler(4, 2, pids=[pid for pid in range(6) for _ in range(6)]), []
    for epoch in range(12):
        assert made.batches_before(epoch) == sum(lengths)
        lengths.append(len(epoch_of(made, epoch)))
        drawn = made.batches
        made.batches_before(9)
        assert made.batches is drawn
    assert len(set(lengths)) > 1
