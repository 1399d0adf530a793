"""The temporal heads of Table 5 against plain loops over clips, frames, channels and attention heads."""

import math
from collections.abc import Sequence
from itertools import combinations, product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs import load_cfg
from model import build_model
from model.temporal_heads import (
    TEMPORAL_HEADS,
    TemporalClassTransformer,
    TemporalConvolution,
    TemporalConvolutionView,
    TemporalTransformer,
)
from tests.conftest import ROOT, tiny_model
from tests.tolerance import assert_close

UNUSED_POSITIONS = 77 * 512  # of frames; of Conv1D the sources say that the paper counts them, Transf_cls fits too


def with_random_weights(head: nn.Module) -> nn.Module:
    """In float64, with every weight and bias random: those that start at 0 or 1 must act too."""
    torch.manual_seed(0)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2)
    return head.double().eval()


def normed(x: Tensor, norm: nn.LayerNorm, eps: float) -> Tensor:
    """LayerNorm by its formula."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(dim=-1, keepdim=True) + eps) * norm.weight + norm.bias


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return x @ layer.weight.T + layer.bias


def attended(x_LE: Tensor, joint_weight: Tensor, joint_bias: Tensor, out: nn.Linear, num_heads: int) -> Tensor:
    """Self-attention of one sequence: q, k, v are the three parts of the joint weight (3E, E), from top to bottom."""
    length, width = x_LE.shape
    q, k, v = (x_LE @ weight.T + bias for weight, bias in zip(joint_weight.chunk(3), joint_bias.chunk(3)))
    mixed, head_width = torch.zeros_like(x_LE), width // num_heads
    for head, i in product(range(num_heads), range(length)):
        part = slice(head * head_width, (head + 1) * head_width)
        scores = torch.stack([q[i, part].dot(k[j, part]) for j in range(length)]) / math.sqrt(head_width)
        shares = scores.exp() / scores.exp().sum()
        mixed[i, part] = sum(shares[j] * v[j, part] for j in range(length))
    return linear(mixed, out)


def test_convolution_is_depth_wise_and_starts_as_a_shift_of_a_quarter_each_way():
    head, x = TemporalConvolution(8), torch.randn(2, 5, 8)  # (B, T, E)
    before, after = F.pad(x, (0, 0, 1, 0))[:, :-1], F.pad(x, (0, 0, 0, 1))[:, 1:]  # zeros beyond both ends
    shifted = torch.cat([before[..., :2], x[..., 2:6], after[..., 6:]], dim=2)
    assert_close(head(x), (x + shifted).mean(dim=1), terms=2 * 5)
    nn.init.normal_(head.shift.weight)
    mixed = sum(head.shift.weight[:, 0, k] * frames for k, frames in enumerate((before, x, after)))
    assert_close(head(x), (x + mixed).mean(dim=1), terms=4 * 5)


def test_the_convolution_of_the_release_reads_a_clip_row_by_row_and_mixes_frames_and_channels():
    torch.manual_seed(0)
    head, (B, T, E) = TemporalConvolutionView(8), (2, 5, 8)
    x = torch.randn(B, E, T).transpose(1, 2)  # (B, T, E), whose memory has another order
    assert torch.equal(head.shift_view.weight, TemporalConvolution(8).shift.weight)
    nn.init.normal_(head.shift_view.weight)
    expected = torch.zeros(B, E)
    for b, channel, step in product(range(B), range(E), range(T)):
        values = [value for frame in x[b] for value in frame]  # T x E values, frame by frame
        row = [torch.zeros(()), *values[channel * T : (channel + 1) * T], torch.zeros(())]
        convolved = sum(head.shift_view.weight[channel, 0, k] * row[step + k] for k in range(3))
        expected[b, channel] += (x[b, step, channel] + convolved) / T
    assert_close(head(x), expected, terms=4 * T)
    paper = TemporalConvolution(8)
    paper.shift.weight = head.shift_view.weight
    assert (head(x) - paper(x)).abs().max() > 0.1


def test_transformer_is_clip_blocks_on_placed_frames_with_a_residual():
    head, x = with_random_weights(TemporalTransformer(128)), 1e-6 * torch.randn(2, 3, 128).double()
    head.frame_positions.data *= 1e-6  # at this size an epsilon of 1e-5 would count a million times what 1e-12 does
    assert len(head.blocks) == 6
    for clip, feature in zip(x, head(x)):
        y = clip + head.frame_positions[:3]
        for block in head.blocks:
            qkv = block.attn.qkv
            y = y + attended(normed(y, block.norm1, 1e-12), qkv.weight, qkv.bias, block.attn.proj, num_heads=2)
            hidden = linear(normed(y, block.norm2, 1e-12), block.mlp.fc1)
            y = y + linear(hidden * torch.sigmoid(1.702 * hidden), block.mlp.fc2)
        assert_close(feature, (clip + y).mean(dim=0), terms=4 * 128, passes=2 * 6, dtype=torch.float64)


def test_class_transformer_returns_its_class_output():
    head, x = with_random_weights(TemporalClassTransformer(64, 3)), torch.randn(2, 3, 64).double()
    *layers, last = head.encoder
    assert len(layers) == 6
    for clip, feature in zip(x, head(x)):
        y = torch.cat([head.class_token[None], clip]) + head.frame_positions
        for layer in layers:
            attention = layer.self_attn
            mixed = attended(y, attention.in_proj_weight, attention.in_proj_bias, attention.out_proj, num_heads=8)
            y = normed(y + mixed, layer.norm1, 1e-5)
            y = normed(y + linear(linear(y, layer.linear1).clamp(min=0), layer.linear2), layer.norm2, 1e-5)
        assert_close(feature, normed(y, last, 1e-5)[0], terms=4 * 64, passes=2 * 6, dtype=torch.float64)


def assert_normal(weights: Sequence[Tensor], std: float) -> None:
    """Every tensor has this standard deviation within 5 %, and more than a uniform law's 1.73 of it at the ends."""
    for weight in weights:
        assert weight.std().item() == pytest.approx(std, rel=0.05) and weight.abs().max() > 2.5 * std


def assert_xavier_uniform(joint_weight: Tensor) -> None:
    """Of the whole (3E, E) weight, as torch.nn.MultiheadAttention draws it."""
    bound = math.sqrt(6 / sum(joint_weight.shape))
    assert joint_weight.shape[0] == 3 * joint_weight.shape[1]
    assert 0.99 * bound < joint_weight.abs().max() <= bound
    assert joint_weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_how_the_transformer_starts():
    torch.manual_seed(0)
    head = TemporalTransformer(256)
    for block in head.blocks:
        assert_xavier_uniform(block.attn.qkv.weight)
        others = [block.attn.proj, block.mlp.fc1, block.mlp.fc2]
        assert_normal([layer.weight for layer in others], std=0.02)
        assert not any(layer.bias.any() for layer in [block.attn.qkv, *others])
        assert block.attn.num_heads == 4 and block.mlp.fc1.out_features == 4 * 256
    norms = [module for module in head.modules() if isinstance(module, nn.LayerNorm)]
    assert [norm.eps for norm in norms] == 12 * [1e-12]
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)
    assert head.frame_positions.shape == (77, 256)
    assert_normal([head.frame_positions], std=0.02)


def test_how_the_class_transformer_starts():
    torch.manual_seed(0)
    head = TemporalClassTransformer(512, 8)
    *layers, last = head.encoder
    for layer in layers:
        assert_xavier_uniform(layer.self_attn.in_proj_weight)
        linears = [layer.self_attn.out_proj, layer.linear1, layer.linear2]
        assert_normal([module.weight for module in linears], std=0.02)
        assert not any(bias.any() for bias in (layer.self_attn.in_proj_bias, *(module.bias for module in linears)))
        assert layer.linear1.out_features == 2048 and layer.dropout.p == 0.1
    assert isinstance(last, nn.LayerNorm) and (last.weight == 1).all() and not last.bias.any()
    assert head.frame_positions.shape == (9, 512)
    assert_normal([head.frame_positions], std=0.02)
    assert head.class_token.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("layers", [TemporalTransformer(64).blocks, TemporalClassTransformer(64, 2).encoder[:-1]])
def test_no_two_layers_start_with_the_same_weights(layers):
    for one, other in combinations([dict(layer.named_parameters()) for layer in layers], 2):
        drawn = [name for name, value in one.items() if value.ndim == 2]
        assert len(drawn) == 4  # the joint q, k, v weight, the output weight, the two of the MLP
        assert not any(torch.equal(one[name], other[name]) for name in drawn)


@pytest.mark.parametrize("head_class", [TemporalConvolution, TemporalConvolutionView])
def test_convolutions_average_in_float32_under_autocast(head_class):
    head, x = head_class(64), torch.randn(2, 8, 64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feature = head(x)
    assert feature.dtype is torch.float32
    assert_close(feature, head(x.float()), terms=8)  # a shift alone rounds nothing


@pytest.mark.parametrize("frames", [1, 2, 77])
@pytest.mark.parametrize("name", TEMPORAL_HEADS)
def test_numbers_of_frames(name, frames):
    assert TEMPORAL_HEADS[name](64, frames)(torch.randn(2, frames, 64)).shape == (2, 64)
    of_three = TEMPORAL_HEADS[name](64, 3)
    if name == "TRANSF_CLS":
        with pytest.raises(ValueError, match=f"built for clips of 3 frames, found {frames}$"):
            of_three(torch.randn(2, frames, 64))
    else:
        assert of_three(torch.randn(2, frames, 64)).shape == (2, 64)


def test_the_class_transformer_of_a_model_has_positions_for_its_clips():
    model = tiny_model(MODEL__TEMPORAL="TRANSF_CLS", INPUT__SEQ_LEN=3).eval()
    assert model.temporal_head.frame_positions.shape == (1 + 3, 64)
    assert model.embed(torch.randn(1, 3, 3, 32, 16), torch.tensor([0])).shape == (1, 3 * 64)
    with pytest.raises(ValueError, match="clips of 3 frames, found 2"):
        model.embed(torch.randn(1, 2, 3, 32, 16), torch.tensor([0]))


@pytest.mark.parametrize("name", ["TRANSF", "TRANSF_CLS"])
def test_transformers_see_the_order_of_the_frames(name):
    torch.manual_seed(0)
    head, x = TEMPORAL_HEADS[name](64, 4).eval(), torch.randn(1, 4, 64)
    nn.init.normal_(head.frame_positions)
    assert (head(x) - head(x.flip(1))).abs().max() > 1e-3


LAYERS = 6 * (12 * 512**2 + 13 * 512)


@pytest.mark.parametrize(
    ("row", "head", "unused", "paper"),
    [
        ("table5_conv1d", 3 * 512, UNUSED_POSITIONS, 87.31),
        ("table5_conv1d_view", 3 * 512, UNUSED_POSITIONS, 87.31),
        ("table5_transf", LAYERS + 77 * 512, 0, 106.22),
        ("table5_transf_cls", LAYERS + (1 + 8) * 512 + 512 + 2 * 512, UNUSED_POSITIONS, 106.23),
    ],
)
def test_parameters_are_those_of_the_paper_but_for_a_table_that_nothing_reads(row, head, unused, paper):
    """Of the whole model with MARS' 625 identities and 6 cameras, in millions as the paper rounds them."""
    with torch.device("meta"):
        model = build_model(load_cfg(ROOT / "configs" / "ablation" / f"{row}.yml"), 625, 6, pretrained=False)
    assert sum(p.numel() for p in model.temporal_head.parameters()) == head
    whole = sum(p.numel() for p in model.parameters())
    assert round((whole + unused) / 1e6, 2) == paper
    assert unused == 0 or round(whole / 1e6, 2) == pytest.approx(paper - 0.04)
