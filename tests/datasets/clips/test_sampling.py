"""Frame indices, worked by hand for the cases of fewer, as many and more frames than a clip holds."""

import random
from collections import Counter

import pytest

from datasets.clips.sampling import dense_clips, first_per_chunk, random_per_chunk


@pytest.mark.parametrize(
    ("frames", "length", "indices"),
    [
        (1, 4, [0, 0, 0, 0]),
        (3, 8, [0, 1, 2, 2, 2, 2, 2, 2]),  # n < T: all frames, then the last one again
        (4, 4, [0, 1, 2, 3]),
        (8, 4, [0, 2, 4, 6]),
        (9, 4, [0, 3, 6, 8]),  # chunks of ceil(9/4) = 3: 0-2, 3-5, 6-8, and one of padding
        (10, 4, [0, 3, 6, 9]),
        (9, 8, [0, 2, 4, 6, 8, 8, 8, 8]),  # chunks of 2; the padded list is 0..8, 8, 8, 8, 8, 8, 8, 8
        (17, 8, [0, 3, 6, 9, 12, 15, 16, 16]),
        (5, 1, [0]),
    ],
)
def test_first_frames_of_the_chunks(frames, length, indices):
    assert first_per_chunk(frames, length) == indices
    if frames <= length:  # nothing is left to chance
        assert all(random_per_chunk(frames, length, random.Random(seed)) == indices for seed in range(20))


@pytest.mark.parametrize(("frames", "length"), [(8, 4), (9, 4), (10, 4), (9, 8), (61, 8), (64, 8), (900, 8), (7, 1)])
def test_random_frames_stay_in_their_chunk_and_reach_all_of_it(frames, length):
    size = -(-frames // length)
    padded = list(range(frames)) + [frames - 1] * (size * length - frames)
    rng = random.Random(0)
    draws = [random_per_chunk(frames, length, rng) for _ in range(20 * size)]
    assert draws[0] == random_per_chunk(frames, length, random.Random(0))
    for position in range(length):
        seen = {draw[position] for draw in draws}
        chunk = set(padded[position * size : (position + 1) * size])
        assert seen <= chunk
        # Missing a given frame of a chunk in 20 * size draws has probability exp(-20); of large chunks count most.
        assert seen == chunk


def test_random_frames_of_a_chunk_are_drawn_evenly():
    rng = random.Random(0)
    # Chunks of 3 over 10 frames: 0-2, 3-5, 6-8, and 9 with two paddings, which is always 9.
    counts = Counter(random_per_chunk(10, 4, rng)[1] for _ in range(3000))
    assert all(abs(counts[frame] - 1000) < 150 for frame in (3, 4, 5))  # 150 is 5.8 standard deviations
    # The last chunk of 11 frames is 9, 10, 10: its last frame counts twice.
    counts = Counter(random_per_chunk(11, 4, rng)[3] for _ in range(3000))
    assert abs(counts[10] - 2000) < 150


@pytest.mark.parametrize(
    ("frames", "length", "clips"),
    [
        (1, 4, [[0, 0, 0, 0]]),
        (3, 4, [[0, 1, 2, 0]]),
        (4, 4, [[0, 1, 2, 3]]),
        (6, 4, [[0, 1, 2, 3], [4, 5, 4, 5]]),  # the last clip cycles its own frames, not those of the tracklet
        (9, 4, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 8, 8, 8]]),
        (11, 8, [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 8, 9, 10, 8, 9]]),
        (3, 1, [[0], [1], [2]]),
        (921, 920, [[*range(920)], [920] * 920]),
    ],
)
def test_dense_clips_by_hand(frames, length, clips):
    assert dense_clips(frames, length) == clips


@pytest.mark.parametrize(("frames", "length"), [(0, 8), (8, 0)])
def test_no_frames_or_clips_without_frames_are_refused(frames, length):
    for sample, rest in ((first_per_chunk, ()), (dense_clips, ()), (random_per_chunk, (random.Random(0),))):
        with pytest.raises(ValueError, match=f"{frames} frames and clips of {length}"):
            sample(frames, length, *rest)
