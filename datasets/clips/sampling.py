"""Which frames of a tracklet make a clip; pure functions of frame count, clip length and generator.

n = frames of the tracklet, T = frames per clip. All indices are 0-based.
"""

import random


def random_per_chunk(num_frames: int, clip_length: int, rng: random.Random) -> list[int]:
    """Restricted random sampling (training): one random frame of each of T chunks -> T indices.

    n < T: frames 0..n-1, then the last one repeated. n >= T: T chunks of ceil(n / T), the list padded with its last.
    """
    _check(num_frames, clip_length)
    if num_frames < clip_length:
        return _repeat_last(num_frames, clip_length)
    size = _chunk_size(num_frames, clip_length)
    last = num_frames - 1
    return [min(chunk * size + rng.randrange(size), last) for chunk in range(clip_length)]


def first_per_chunk(num_frames: int, clip_length: int) -> list[int]:
    """The first frame of each of the same T chunks (tests during training) -> T indices."""
    _check(num_frames, clip_length)
    if num_frames < clip_length:
        return _repeat_last(num_frames, clip_length)
    size = _chunk_size(num_frames, clip_length)
    return [min(chunk * size, num_frames - 1) for chunk in range(clip_length)]


def dense_clips(num_frames: int, clip_length: int) -> list[list[int]]:
    """All frames as consecutive clips of T (final test, CLIP-Memory); the last one cycles its own frames.

    Returns ceil(n / T) lists of T indices.
    """
    _check(num_frames, clip_length)
    clips = []
    for start in range(0, num_frames, clip_length):
        own = range(start, min(start + clip_length, num_frames))
        clips.append([own[position % len(own)] for position in range(clip_length)])
    return clips


def _check(num_frames: int, clip_length: int) -> None:
    if num_frames < 1 or clip_length < 1:
        raise ValueError(f"a clip needs at least one frame, found {num_frames} frames and clips of {clip_length}")


def _repeat_last(num_frames: int, clip_length: int) -> list[int]:
    return [min(position, num_frames - 1) for position in range(clip_length)]


def _chunk_size(num_frames: int, clip_length: int) -> int:
    return -(-num_frames // clip_length)
