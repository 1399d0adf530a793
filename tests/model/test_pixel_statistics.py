"""Frames are normalised with the keys or with the statistics of the encoder's weights."""

import logging

import pytest
import torch

from configs import load_cfg
from model import pixel_statistics
from processor.experiment import prepare
from tests.conftest import tiny_cfg
from utils.errors import InputError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5,) * 3, (0.5,) * 3
LAION_L = "MODEL.NAME vit_large_patch14_clip_224.laion2b"  # the only CLIP of timm with statistics of its own
KEYS, WEIGHTS = "INPUT.PIXEL_STATISTICS keys", "INPUT.PIXEL_STATISTICS weights"
NONE, TIMM = "MODEL.PRETRAIN_CHOICE none", "MODEL.PRETRAIN_CHOICE timm"
OWN = "INPUT.PIXEL_MEAN [0.1,0.2,0.3] INPUT.PIXEL_STD [0.4,0.5,0.6]"


@pytest.mark.parametrize(
    ("options", "expected", "source"),
    [
        ("", IMAGENET, "INPUT.PIXEL_MEAN, INPUT.PIXEL_STD"),
        (NONE, IMAGENET, "INPUT.PIXEL_MEAN, INPUT.PIXEL_STD"),
        (OWN, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), "INPUT.PIXEL_MEAN, INPUT.PIXEL_STD"),
        (f"{TIMM} {KEYS} {OWN} {LAION_L}", ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), "INPUT.PIXEL_MEAN, INPUT.PIXEL_STD"),
        (f"{TIMM} {KEYS} {LAION_L}", IMAGENET, "INPUT.PIXEL_MEAN, INPUT.PIXEL_STD"),
        (f"{TIMM} {LAION_L}", HALF, "timm's record of vit_large_patch14_clip_224.laion2b"),
        (f"{TIMM} {WEIGHTS} {LAION_L}", HALF, "timm's record of vit_large_patch14_clip_224.laion2b"),
        (f"{NONE} {WEIGHTS} {LAION_L}", HALF, "timm's record of vit_large_patch14_clip_224.laion2b"),
        (TIMM, CLIP, "timm's record of vit_base_patch16_clip_quickgelu_224.openai"),
        (WEIGHTS, CLIP, "timm's record of vit_base_patch16_clip_quickgelu_224.openai"),
        (f"{WEIGHTS} MODEL.NAME RN50 MODEL.SIE_CAMERA False", CLIP, "timm's record of resnet50_clip.openai"),
        (f"{TIMM} MODEL.NAME vit_base_patch16_clip_quickgelu_224.dfn2b", CLIP,
         "timm's record of vit_base_patch16_clip_quickgelu_224.dfn2b"),
    ],
)  # fmt: skip
def test_the_choice_decides_whose_statistics_are_used(options, expected, source):
    statistics = pixel_statistics(load_cfg(opts=options.split()))
    assert (statistics.mean, statistics.std) == expected and statistics.source == source


def test_a_name_that_timm_does_not_know_is_refused():
    with pytest.raises(InputError, match="timm knows no weights 'nonsense'"):
        pixel_statistics(load_cfg(opts=f"{TIMM} MODEL.NAME vit_base_patch16_clip_224.nonsense".split()))


@pytest.mark.parametrize(
    ("choice", "expected", "words"),
    [
        ("auto", IMAGENET, "(0.485, 0.456, 0.406), std (0.229, 0.224, 0.225): INPUT.PIXEL_MEAN, INPUT.PIXEL_STD"),
        ("weights", CLIP, ": timm's record of vit_base_patch16_clip_quickgelu_224.openai (INPUT.PIXEL_STATISTICS wei"),
    ],
)
def test_a_run_uses_them_and_says_whose_they_are(tiny_mars, tmp_path, caplog, choice, expected, words):
    cfg = tiny_cfg(DATASETS__ROOT_DIR=tiny_mars, OUTPUT_DIR=tmp_path, INPUT__PIXEL_STATISTICS=choice)
    with caplog.at_level(logging.INFO):
        normalize = prepare(cfg, tmp_path).runtime.normalize
    assert torch.equal(normalize.mean.flatten().cpu(), torch.tensor(expected[0]))
    assert torch.equal(normalize.std.flatten().cpu(), torch.tensor(expected[1]))
    assert words in caplog.text
