"""Multiply-adds against the formulas of the layers, worked out by hand."""

import pytest
import torch

from configs import load_cfg
from model import build_model, build_text_branch
from processor.ablation.cost import count_cost

N, D, E, C, T = 129, 768, 512, 625, 8  # tokens of a 256x128 frame, widths, identities, frames
BLOCK = 12 * D * D * N + 2 * N * N * D  # linear layers and attention of one encoder block
ENCODER = 12 * BLOCK + N * D * E
HEADS = (D + E) * C / T  # classifiers of v_g and v_p
SSP_LAYER = ((2 * C + 2 * N) * E * E + 2 * C * N * E + 8 * C * E * E) / T
MD = 12 * D * D * (N + 1) + 2 * (N + 1) ** 2 * D
TMC = D * D + 4 * D * D + 2 * T * D
PATCHES = 128 * D * 3 * 16 * 16
TEXT = 12 * (12 * E * E * 77 + 2 * 77 * 77 * E) + E * E


def cost_of(*pairs: str):
    cfg = load_cfg(opts=["MODEL.SSP.VARIANT", "simple", *pairs])
    with torch.device("meta"):
        model = build_model(cfg, C, 6, pretrained=False)
        text = build_text_branch(cfg, model, pretrained=False) if cfg.MODEL.MEMORY == "text" else None
    return count_cost(model, cfg.INPUT.SIZE_TRAIN, cfg.INPUT.SEQ_LEN, cfg.MODEL.MEMORY != "none", text)


@pytest.mark.parametrize(
    ("pairs", "training", "deployed"),
    [
        ("MODEL.TEMPORAL TAP MODEL.SSP.ENABLED False", ENCODER + HEADS, ENCODER + PATCHES),
        ("MODEL.TEMPORAL TAP MODEL.SSP.LAYERS 3", ENCODER + HEADS + 3 * SSP_LAYER, ENCODER + PATCHES),
        (
            "MODEL.SSP.ENABLED False",
            ENCODER + HEADS + TMC + MD + D * C * (1 + 1 / T),
            ENCODER + PATCHES + TMC + MD,
        ),
    ],
)
def test_multiply_adds_are_those_of_the_formulas(pairs, training, deployed):
    cost = cost_of(*pairs.split())
    assert cost.training_flops == pytest.approx(training / 1e9, rel=1e-6)
    assert cost.deployed_flops == pytest.approx(deployed / 1e9, rel=1e-6)


def test_text_branch_counts_one_text_per_frame_and_its_parameters():
    pytest.importorskip("open_clip")
    switches = ("MODEL.TEMPORAL", "TAP", "MODEL.SSP.ENABLED", "False")
    plain, text = cost_of(*switches), cost_of(*switches, "MODEL.MEMORY", "text")
    assert text.training_flops - plain.training_flops == pytest.approx(TEXT / 1e9, rel=1e-3)
    tower = 12 * (12 * E * E + 13 * E) + 77 * E + 2 * E + E * E  # without the token embedding
    assert text.params - plain.params == pytest.approx((tower + C * 4 * E) / 1e6, rel=1e-6)
    assert text.deployed_flops == plain.deployed_flops


def test_without_memory_ssp_is_not_counted():
    none = cost_of("MODEL.TEMPORAL", "TAP", "MODEL.SSP.ENABLED", "False", "MODEL.MEMORY", "none")
    assert none.training_flops == pytest.approx((ENCODER + HEADS) / 1e9, rel=1e-6)
