"""TMD by its formulas: TMC over the frames of a clip, MD over the tokens of a frame."""

import math

import pytest
import torch

from model.temporal_memory import TemporalMemoryConstruction, TemporalMemoryDiffusion
from tests.tolerance import assert_close


def heads_by_hand(attn, x: torch.Tensor, heads: int) -> torch.Tensor:
    """Multi-head self-attention of one sequence (L, D) by loops over heads."""
    q, k, v = attn.qkv(x).chunk(3, dim=-1)
    width = x.shape[-1] // heads
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(width), dim=-1)
        mixed.append(weights @ v[:, part])
    return attn.proj(torch.cat(mixed, dim=-1))


def test_construction_follows_its_formula():
    torch.manual_seed(0)
    tmc = TemporalMemoryConstruction(128)
    tokens = torch.randn(2, 3, 5, 128)
    memory = tmc(tokens)
    for clip in range(2):
        m = torch.stack([tmc.fc(tokens[clip, t].mean(dim=0)) for t in range(3)])
        assert_close(memory[clip], m + heads_by_hand(tmc.attn, tmc.norm(m), 2), terms=128, passes=2)


def test_diffusion_is_one_pre_norm_block_with_the_memory_token_last():
    torch.manual_seed(0)
    tmd = TemporalMemoryDiffusion(64)
    tokens = torch.randn(2, 3, 5, 64)
    out = tmd(tokens)
    assert out.shape == (2, 3, 6, 64)
    block = tmd.diffusion
    y = torch.cat([tokens[1, 2], tmd.construction(tokens)[1, 2][None]])
    y = y + heads_by_hand(block.attn, block.norm1(y), 1)
    hidden = block.mlp.fc1(block.norm2(y))
    y = y + block.mlp.fc2(hidden * torch.sigmoid(1.702 * hidden))
    assert_close(out[1, 2], y, terms=4 * 64, passes=2)


@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_clip_length_comes_from_the_input(num_frames):
    assert TemporalMemoryDiffusion(64)(torch.randn(2, num_frames, 3, 64)).shape == (2, num_frames, 4, 64)


def test_clips_do_not_see_each_other_but_frames_do():
    torch.manual_seed(0)
    tmd = TemporalMemoryDiffusion(64)
    tokens = torch.randn(3, 4, 5, 64)
    out = tmd(tokens)
    assert_close(tmd(tokens[1:2])[0], out[1], terms=4 * 64, passes=2)
    changed = tokens.clone()
    changed[1, 0] += torch.randn(5, 64)
    assert (tmd(changed)[1, 3] - out[1, 3]).abs().max() > 1e-4


def test_frame_order_moves_with_the_frames():
    torch.manual_seed(0)
    tmd = TemporalMemoryDiffusion(64)
    tokens = torch.randn(1, 4, 5, 64)
    order = torch.tensor([2, 0, 3, 1])
    assert_close(tmd(tokens[:, order]), tmd(tokens)[:, order], terms=4 * 64, passes=2)


def test_initialisation():
    torch.manual_seed(0)
    tmd = TemporalMemoryDiffusion(768)
    for attn in (tmd.construction.attn, tmd.diffusion.attn):
        bound = math.sqrt(6 / (768 + 3 * 768))  # Xavier uniform of the joint weight
        assert attn.qkv.weight.abs().max() <= bound
        assert math.isclose(attn.qkv.weight.std().item(), bound / math.sqrt(3), rel_tol=0.02)
        assert not attn.qkv.bias.any() and not attn.proj.bias.any()
        assert attn.num_heads == 12
    default = 1 / math.sqrt(768)  # torch's default bound of a Linear with 768 inputs
    for linear in (tmd.construction.fc, tmd.diffusion.mlp.fc1, tmd.diffusion.attn.proj):
        assert math.isclose(linear.weight.abs().max().item(), default, rel_tol=0.01)
    assert {m.eps for m in tmd.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}
    assert round(sum(p.numel() for p in tmd.parameters()) / 1e6, 2) == 10.04  # Table 3: TMC 2.95 (+ neck), MD 7.09
