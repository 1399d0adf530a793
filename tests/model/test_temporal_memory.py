"""TMD by its formulas: TMC over the frames of a clip, MD over the tokens of a frame."""

import math
from itertools import product

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


@pytest.mark.parametrize("num_frames", [1, 3])
def test_construction_follows_its_formula(num_frames):
    torch.manual_seed(0)
    tmc = TemporalMemoryConstruction(128)
    tokens = torch.randn(2, num_frames, 5, 128)
    memory = tmc(tokens)
    for clip in range(2):
        m = torch.stack([tmc.fc(tokens[clip, t].mean(dim=0)) for t in range(num_frames)])
        assert_close(memory[clip], m + heads_by_hand(tmc.attn, tmc.norm(m), 2), terms=128, passes=2)


def test_diffusion_is_one_pre_norm_block_with_the_memory_token_last():
    torch.manual_seed(0)
    tmd = TemporalMemoryDiffusion(64)
    tokens = torch.randn(2, 3, 5, 64)
    out = tmd(tokens)
    assert out.shape == (2, 3, 6, 64)
    block, memory = tmd.diffusion, tmd.construction(tokens)
    for frame in product(range(2), range(3)):
        y = torch.cat([tokens[frame], memory[frame][None]])
        y = y + heads_by_hand(block.attn, block.norm1(y), 1)
        hidden = block.mlp.fc1(block.norm2(y))
        y = y + block.mlp.fc2(hidden * torch.sigmoid(1.702 * hidden))
        assert_close(out[frame], y, terms=4 * 64, passes=2)


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
