"""What CLIP-ReID's image recipe adds to training frames: Pillow's bicubic, padding with a crop, timm's erasing."""

import random

import pytest
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import InterpolationMode, Pad, PILToTensor, Resize
from torchvision.transforms.functional import crop, hflip

from configs import load_cfg
from datasets import build_erasing, build_memory_loader, build_train_loader, load_splits
from datasets.clips.dataset import TrainClips
from datasets.clips.transforms import ClipAugment
from datasets.frames.reader import read_frame
from datasets.tracklet import Tracklet
from tests.conftest import tiny_options

CPU = torch.device("cpu")
HEIGHT, WIDTH = 64, 32
SIZES = [(64, 32), (32, 16), (90, 50), (120, 20), (20, 60), (63, 33)]  # equal, enlarged, shrunk, one side each


@pytest.fixture(scope="module")
def tracklet(tmp_path_factory) -> Tracklet:
    """Six frames of noise, JPEG and PNG, of SIZES [height, width]."""
    folder, paths = tmp_path_factory.mktemp("frames"), []
    for number, (height, width) in enumerate(SIZES):
        paths.append(str(folder / f"{number}.{'png' if number % 2 else 'jpg'}"))
        bands = [Image.effect_noise((width, height), 60) for _ in range(3)]
        Image.merge("RGB", bands).save(paths[-1])
    return Tracklet(tuple(paths), pid=0, camid=0)


def cfg_of(**overrides):
    return load_cfg(opts=tiny_options(**overrides))


@pytest.mark.parametrize("padding", [0, 3, 10])
def test_frames_are_those_of_torchvisions_transforms_bit_for_bit(tracklet, padding):
    """Resize, RandomHorizontalFlip, Pad and RandomCrop on Pillow images, with what was drawn for the clip."""
    augment = ClipAugment(flip_prob=0.5, erase_prob=0, padding=padding)
    dataset = TrainClips([tracklet], 6, (HEIGHT, WIDTH), augment, 1, interpolation="bicubic")
    resize, pad = Resize((HEIGHT, WIDTH), InterpolationMode.BICUBIC), Pad(padding)
    outcomes = set()
    for seed in range(30):
        rng = random.Random(seed)
        for _ in tracklet.frames:
            rng.randrange(1)  # the frame of each chunk
        drawn = augment.draw(6, HEIGHT, WIDTH, rng)
        (clip,), *_ = dataset.__getitems__([(0, seed)])
        for frame, path in zip(clip, tracklet.frames):
            image = resize(Image.open(path))
            image = crop(pad(hflip(image) if drawn.flip else image), *drawn.corner, HEIGHT, WIDTH)
            assert torch.equal(frame, PILToTensor()(image))
        outcomes.add((drawn.flip, drawn.corner))
    assert len(outcomes) == 2 if padding == 0 else len(outcomes) > 20


def test_the_corner_is_uniform_over_all_crops_and_one_for_all_frames_of_a_clip():
    clip = torch.zeros(3, 16, 8, 3, dtype=torch.uint8)
    clip[:, 7, 4] = 255
    corners, rng = [], random.Random(0)
    for _ in range(2000):
        frames = clip.clone().numpy()
        ClipAugment(0, 0, padding=2).draw(3, 16, 8, rng).apply(frames)
        places = torch.from_numpy(frames)[..., 0].nonzero()  # (frame, row, column) of the white pixel
        assert len(places) == 3 and len(places[:, 1:].unique(dim=0)) == 1
        corners.append((places[0, 1].item() - 7, places[0, 2].item() - 4))
    counts = torch.tensor([corners.count((row, column)) for row in range(-2, 3) for column in range(-2, 3)])
    assert counts.sum() == 2000 and (counts - 80).abs().max() < 4.5 * (2000 / 25) ** 0.5


def test_without_padding_the_draws_are_those_of_earlier_runs():
    with_key, without = random.Random(5), random.Random(5)
    assert ClipAugment(0.5, 0.5, padding=0).draw(8, 64, 32, with_key) == ClipAugment(0.5, 0.5).draw(8, 64, 32, without)
    assert with_key.getstate() == without.getstate()


def test_keys_reach_the_training_loader_alone(tiny_mars):
    """Tests and the memory pass resize bilinearly."""
    size = {"INPUT__SIZE_TRAIN": "[48, 16]", "INPUT__SIZE_TEST": "[48, 16]"}  # frames have 32 x 16
    splits, plain = load_splits("MARS", str(tiny_mars)), {"INPUT__PROB": 0, "INPUT__RE_PROB": 0}
    (first, *_) = build_train_loader(cfg_of(**size, **plain), splits)
    (cubic, *_) = build_train_loader(cfg_of(**size, **plain, INPUT__INTERPOLATION="bicubic"), splits)
    assert not torch.equal(first.clips, cubic.clips)
    (padded, *_) = build_train_loader(cfg_of(**size, **plain, INPUT__PADDING=5), splits)
    assert not torch.equal(first.clips, padded.clips)
    cfg = cfg_of(**size, INPUT__INTERPOLATION="bicubic", INPUT__PADDING=5)
    (memory, *_) = build_memory_loader(cfg, splits, splits.train)
    assert torch.equal(memory.clips[0, 0], read_frame(splits.train[0].frames[0], (48, 16)))


def test_pixel_erasing_is_left_to_timm_and_colour_erasing_to_the_loader(tiny_mars):
    splits = load_splits("MARS", str(tiny_mars))
    colour, pixel = {"INPUT__RE_PROB": 1}, {"INPUT__RE_PROB": 1, "INPUT__RE_MODE": "pixel"}
    off = {"INPUT__RE_PROB": 0}
    batches = [next(iter(build_train_loader(cfg_of(**keys), splits))).clips for keys in (off, colour, pixel)]
    assert torch.equal(batches[0], batches[2]) and not torch.equal(batches[0], batches[1])
    assert build_erasing(cfg_of(**colour), CPU) is None
    found = build_erasing(cfg_of(INPUT__RE_MODE="pixel", INPUT__RE_PROB=0.3), CPU)
    timms = RandomErasing(0.3, mode="pixel", max_count=1, device="cpu")
    assert vars(found) | {"device": ""} == vars(timms) | {"device": ""}
    assert (timms.min_area, timms.max_area) == (0.02, 1 / 3)


def test_pixel_erasing_puts_normal_noise_into_one_box_of_a_share_of_the_frames():
    torch.manual_seed(0)
    random.seed(0)
    frames = torch.full((400, 3, 64, 32), 9.0)  # noise of standard deviation 1 does not reach it
    erased = build_erasing(cfg_of(INPUT__RE_MODE="pixel"), CPU)(frames)
    hit_NHW = (erased != 9).any(dim=1)
    assert erased is frames and torch.equal(hit_NHW, (erased != 9).all(dim=1))
    boxes = [hit for hit in hit_NHW if hit.any()]
    assert 158 < len(boxes) < 242  # 4.2 standard deviations
    for hit in boxes:
        rows, columns = hit.any(dim=1).sum(), hit.any(dim=0).sum()
        assert hit.sum() == rows * columns and 0.015 < hit.float().mean() < 0.36  # sides are rounded
    noise = erased[erased != 9]
    assert abs(noise.mean()) < 5 / len(noise) ** 0.5 and abs(noise.std() - 1) < 5 / len(noise) ** 0.5
