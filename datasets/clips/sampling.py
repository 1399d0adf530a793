"""Which frames of a tracklet make a clip; pure functions of frame count, clip length and generator.

n = frames of the tracklet, T = frames per clip. All indices are 0-based.
"""

import random


def random_per_chunk(num_frames: int, clip_length: int, rng: random.Random) -> list[int]:
    """Restricted random sampling (training): one random frame of each of T chunks -> T indices.

    n < T: frames 0..n-1, then the last one repeated. n >= T: T chunks of ceil(n / T), the list padded with its last.
    """
    if num_frames < clip_length:  # nothing to draw
        return first_per_chunk(num_frames, clip_length)
    size = _chunk_size(num_frames, clip_length)
    return [min(chunk * size + rng.randrange(size), num_frames - 1) for chunk in range(clip_length)]


def first_per_chunk(num_frames: int, clip_length: int) -> list[int]:
    """The first frame of each of the same T chunks (tests during training) -> T indices."""
    size = _chunk_size(num_frames, clip_length)
    return [min(chunk * size, num_frames - 1) for chunk in range(clip_length)]


def dense_clips(num_frames: int, clip_length: int) -> list[list[int]]:
    """All frames as consecutive clips of T (final test, CLIP-Memory); the last one cycles its own frames.

    Returns ceil(n / T) lists of T indices.
    """
    clips = []
    for clip in range(_chunk_size(num_frames, clip_length)):
        own = range(num_frames)[clip * clip_length : (clip + 1) * clip_length]
        clips.append([own[position % len(own)] for position in range(clip_length)])
    return clips


def _chunk_size(num_frames: int, clip_length: int) -> int:
    """ceil(n / T): frames of a chunk, or clips that hold all frames; raises ValueError unless n and T are 1 or more."""
    if num_frames < 1 or clip_length < 1:
        raise ValueError(f"a clip needs at least one frame, found {num_frames} frames and clips of {clip_length}")
    return -(-num_frames // clip_length)
