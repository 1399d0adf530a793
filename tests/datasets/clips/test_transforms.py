"""Flip once per clip, erasing per frame and exactly at the drawn box, normalisation against a value by hand."""

import random

import pytest
import torch

from datasets.clips.transforms import ClipAugment, Normalize, draw_erase_box
from datasets.frames.reader import resize_frame

SEEDS = range(200)


def augmented(augment: ClipAugment, clip: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """The augmented copy of a clip (T, 3, H, W)."""
    frames, _, height, width = clip.shape
    clip_THW3 = clip.permute(0, 2, 3, 1).numpy().copy(order="C")
    augment.draw(frames, height, width, rng).apply(clip_THW3)
    return torch.from_numpy(clip_THW3).permute(0, 3, 1, 2)


def random_clip(frames=4, height=64, width=32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


def next_box(seed: int, height: int, width: int) -> tuple[random.Random, tuple[int, int, int, int]]:
    """The box that erasing a one-frame clip draws with this seed, and the generator after it."""
    rng = random.Random(seed)
    rng.random()  # flip or not
    rng.random()  # erase or not
    box = draw_erase_box(height, width, rng)
    assert box is not None
    return rng, box


def test_a_flip_is_decided_once_per_clip_and_half_the_time():
    clip, augment = random_clip(), ClipAugment(flip_prob=0.5, erase_prob=0)
    outcomes = [augmented(augment, clip, random.Random(seed)) for seed in SEEDS]
    assert all(torch.equal(augmented(augment, clip, random.Random(seed)), outcomes[seed]) for seed in range(9))
    flips = [torch.equal(outcome, clip.flip(-1)) for outcome in outcomes]
    assert all(flip or torch.equal(outcome, clip) for flip, outcome in zip(flips, outcomes))
    assert 70 < sum(flips) < 130  # 4.2 standard deviations
    assert all(torch.equal(augmented(ClipAugment(0, 0), clip, random.Random(seed)), clip) for seed in SEEDS)
    assert all(torch.equal(augmented(ClipAugment(1, 0), clip, random.Random(seed)), clip.flip(-1)) for seed in SEEDS)


def test_erasing_is_decided_for_each_frame():
    clip = torch.zeros(400, 3, 16, 8, dtype=torch.uint8)
    assert augmented(ClipAugment(0, 1), clip, random.Random(0)).flatten(1).any(dim=1).all()  # black: 1 in 16.7 million
    erased = augmented(ClipAugment(0, 0.5), clip, random.Random(0)).flatten(1).any(dim=1)
    assert 158 < erased.sum() < 242  # 4.2 standard deviations
    mixed = [
        augmented(ClipAugment(0, 0.5), clip[:4], random.Random(seed)).flatten(1).any(dim=1).unique() for seed in SEEDS
    ]
    assert sum(len(kinds) == 2 for kinds in mixed) > 150  # 7 of 8 clips of four hold both kinds


@pytest.mark.parametrize(("height", "width"), [(256, 128), (64, 32), (20, 200)])
def test_the_erased_box_has_the_area_and_shape_of_the_method_and_lies_in_the_frame(height, width):
    rng = random.Random(0)
    boxes = [draw_erase_box(height, width, rng) for _ in range(2000)]
    for top, left, box_height, box_width in boxes:
        assert 0 <= top <= height - box_height and 0 <= left <= width - box_width
        # Sides are rounded down, so the drawn area and shape lie between those of the box and of one pixel more.
        assert box_height * box_width <= 0.2 * height * width
        assert (box_height + 1) * (box_width + 1) >= 0.02 * height * width
        assert box_height / (box_width + 1) <= 1 / 0.3 and (box_height + 1) / box_width >= 0.3
    # They reach all corners, and the whole range of areas and shapes.
    assert {top == 0 for top, *_ in boxes} == {left == 0 for _, left, *_ in boxes} == {True, False}
    assert any(top + box_height == height for top, _, box_height, _ in boxes)
    assert any(left + box_width == width for _, left, _, box_width in boxes)
    areas = [box_height * box_width / (height * width) for _, _, box_height, box_width in boxes]
    shapes = [box_height / box_width for _, _, box_height, box_width in boxes]
    assert (min(areas) < 0.025 and max(areas) > 0.19 and min(shapes) < 0.4 and max(shapes) > 3) or height == 20


def test_a_frame_too_small_for_any_box_is_left_alone():
    assert draw_erase_box(1, 1, random.Random(0)) is None
    clip = torch.full((3, 3, 1, 1), 7, dtype=torch.uint8)
    assert torch.equal(augmented(ClipAugment(0, 1), clip, random.Random(0)), clip)


@pytest.mark.parametrize("legacy", [False, True])
def test_one_colour_fills_exactly_the_box_at_the_drawn_or_the_releases_corner(legacy):
    for seed in SEEDS:
        clip = random_clip(frames=1)
        rng, (top, left, height, width) = next_box(seed, 64, 32)
        if legacy:  # the release pastes at row = height of the box, column = width of the box
            top, left = height, width
        colour = [rng.randrange(256) for _ in range(3)]
        expected = clip.clone()
        for row in range(top, min(top + height, 64)):
            for column in range(left, min(left + width, 32)):
                expected[0, :, row, column] = torch.tensor(colour, dtype=torch.uint8)
        assert torch.equal(augmented(ClipAugment(0, 1, legacy), clip, random.Random(seed)), expected)


def test_resizing_is_bilinear_and_antialiased():
    # Half-pixel centres: a 1x2 frame (0, 200) at width 4 lies at 0, 0.25, 0.75 and 1 between its two pixels.
    frame = torch.tensor([[[0, 200]]] * 3, dtype=torch.uint8)
    assert resize_frame(frame, [1, 4])[0, 0].tolist() == [0, 50, 150, 200]
    # Halving with antialiasing weighs the four columns around a pixel 1/8, 3/8, 3/8, 1/8; without, only the inner two.
    frame = torch.tensor([[[0, 0, 0, 80, 0, 0, 0, 0]]] * 3, dtype=torch.uint8)
    assert resize_frame(frame, [1, 4])[0, 0].tolist() == [0, 30, 10, 0] and resize_frame(frame, [1, 8]) is frame


def test_normalize_agrees_with_a_value_by_hand_for_clips_and_batches():
    normalize = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    frames = torch.tensor([0, 128, 255], dtype=torch.uint8)[:, None, None].expand(2, 5, 3, 4, 2)
    out = normalize(frames)
    assert (out.shape, out.dtype) == (frames.shape, torch.float32)
    # (0 - 0.485) / 0.229, (128/255 - 0.456) / 0.224, (1 - 0.406) / 0.225
    for colour, value in enumerate((-2.1179039, 0.2051821, 2.64)):
        assert out[..., colour, :, :].flatten().tolist() == pytest.approx([value] * 80, abs=1e-6)
    assert normalize.state_dict() == {} and frames.unique().tolist() == [0, 128, 255]
    floats = frames.float()
    assert torch.equal(normalize(floats), out) and floats.unique().tolist() == [0, 128, 255]


@pytest.mark.parametrize("shape", [(2, 3, 16, 8), (2, 4, 3, 16, 8), (3, 16, 8)])
def test_normalize_makes_the_usual_order_in_memory_of_channels_last_frames_bit_for_bit(shape):
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    channels_last = frames.movedim(-3, -1).contiguous().movedim(-1, -3)
    assert torch.equal(channels_last, frames) and not channels_last.is_contiguous()
    out = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(channels_last)
    assert out.is_contiguous() and torch.equal(out, (frames.float() / 255 - mean) / std)
    assert torch.equal(channels_last, frames)
