"""The temporal heads of Table 5 against plain loops and torch's own parts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.temporal_heads import TEMPORAL_HEADS, TemporalClassTransformer, TemporalConvolution, TemporalTransformer
from tests.tolerance import assert_close


def test_convolution_is_depth_wise_and_starts_as_a_shift_of_a_quarter_each_way():
    head, x = TemporalConvolution(8), torch.randn(2, 5, 8)  # (B, T, E)
    before, after = F.pad(x, (0, 0, 1, 0))[:, :-1], F.pad(x, (0, 0, 0, 1))[:, 1:]  # zeros beyond both ends
    shifted = torch.cat([before[..., :2], x[..., 2:6], after[..., 6:]], dim=2)
    assert_close(head(x), (x + shifted).mean(dim=1), terms=2 * 5)
    nn.init.normal_(head.shift.weight)
    mixed = sum(head.shift.weight[:, 0, k] * frames for k, frames in enumerate((before, x, after)))
    assert_close(head(x), (x + mixed).mean(dim=1), terms=4 * 5)


def test_transformer_is_clip_blocks_on_placed_frames_with_a_residual():
    torch.manual_seed(0)
    head, x = TemporalTransformer(64).eval(), torch.randn(2, 3, 64)
    y = x + head.frame_positions[:3]
    for block in head.blocks:
        normed = F.layer_norm(y, (64,), block.norm1.weight, block.norm1.bias, 1e-5)
        qkv = block.attn.qkv
        attended, _ = F.multi_head_attention_forward(
            *[normed.transpose(0, 1)] * 3, 64, 1, qkv.weight, qkv.bias, None, None, False, 0.0,
            block.attn.proj.weight, block.attn.proj.bias, training=False, need_weights=False,
        )  # fmt: skip
        y = y + attended.transpose(0, 1)
        h = block.mlp.fc1(F.layer_norm(y, (64,), block.norm2.weight, block.norm2.bias, 1e-5))
        y = y + block.mlp.fc2(h * torch.sigmoid(1.702 * h))
    assert len(head.blocks) == 6
    assert_close(head(x), (x + y).mean(dim=1), terms=4 * 64, passes=6)


def test_class_transformer_returns_its_class_output():
    torch.manual_seed(0)
    head, x = TemporalClassTransformer(64).eval(), torch.randn(2, 3, 64)
    y = torch.cat([head.class_token.expand(2, 1, -1), x], dim=1) + head.frame_positions[:4]
    for layer in head.encoder.layers:
        y = layer.norm1(y + layer.self_attn(y, y, y, need_weights=False)[0])
        y = layer.norm2(y + layer.linear2(torch.relu(layer.linear1(y))))
    assert_close(head(x), head.encoder.norm(y)[:, 0], layer.linear2.in_features, passes=6)
    assert len(head.encoder.layers) == 6 and head.encoder.layers[0].self_attn.num_heads == 8


def test_transformer_starts_as_clip_does():
    torch.manual_seed(0)
    head = TemporalTransformer(256)
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert all(0.019 < m.weight.std() < 0.021 and not m.bias.any() for m in linears) and len(linears) == 24


def test_convolution_averages_in_float32_under_autocast():
    head, x = TemporalConvolution(64), torch.randn(2, 8, 64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feature, shifted = head(x), head.shift(x.transpose(1, 2)).transpose(1, 2)
    assert feature.dtype is torch.float32
    assert_close(feature, (x.float() + shifted.float()).mean(dim=1), terms=8)


@pytest.mark.parametrize("name", TEMPORAL_HEADS)
@pytest.mark.parametrize("frames", [1, 2, 77])
def test_any_number_of_frames(name, frames):
    assert TEMPORAL_HEADS[name](64)(torch.randn(2, frames, 64)).shape == (2, 64)


@pytest.mark.parametrize("name", ["TRANSF", "TRANSF_CLS"])
def test_transformers_see_the_order_of_the_frames(name):
    torch.manual_seed(0)
    head, x = TEMPORAL_HEADS[name](64).eval(), torch.randn(1, 4, 64)
    nn.init.normal_(head.frame_positions)
    assert (head(x) - head(x.flip(1))).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("CONV1D", 3 * 512),
        ("TRANSF", 6 * (12 * 512**2 + 13 * 512) + 77 * 512),
        ("TRANSF_CLS", 6 * (12 * 512**2 + 13 * 512) + 78 * 512 + 512 + 2 * 512),
    ],
)
def test_parameters_at_the_width_of_the_paper(name, count):
    assert sum(p.numel() for p in TEMPORAL_HEADS[name](512).parameters()) == count
