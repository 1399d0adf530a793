"""SSP against plain loops, and what its two variants hold."""

import math

import pytest
import torch

from model.sequence_prompt import PromptAttention, PromptLayer, SequenceSpecificPrompt
from tests.tolerance import assert_close


def test_attention_against_loops():
    torch.manual_seed(0)
    attention = PromptAttention(128).eval()
    query, context = torch.randn(2, 3, 128), torch.randn(2, 5, 128)
    q, k, v = attention.q_proj(query), attention.k_proj(context), attention.v_proj(context)
    mixed = torch.zeros(2, 3, 128)
    for b in range(2):
        for head in range(2):
            part = slice(64 * head, 64 * head + 64)
            for i in range(3):
                weights = torch.softmax(torch.stack([q[b, i, part] @ k[b, j, part] for j in range(5)]) / 8.0, dim=0)
                mixed[b, i, part] = sum(weights[j] * v[b, j, part] for j in range(5))
    assert_close(attention(query, context), attention.out_proj(mixed), terms=128)


def test_simple_layer_has_no_self_attention_and_adds_residuals():
    torch.manual_seed(0)
    layer = PromptLayer(64, self_attention=False).eval()
    x, context = torch.randn(1, 4, 64), torch.randn(1, 6, 64)
    after_cross = x + layer.cross_attn(layer.cross_norm(x), context)
    assert_close(layer(x, context), after_cross + layer.mlp(layer.mlp_norm(after_cross)), terms=4 * 64)
    assert not hasattr(layer, "self_attn")
    # Only with self-attention does the row of an identity depend on the other rows.
    assert_close(layer(x[:, :2], context), layer(x, context)[:, :2], terms=4 * 64)
    full = PromptLayer(64, self_attention=True).eval()
    assert (full(x[:, :2], context) - full(x, context)[:, :2]).abs().max() > 1e-4


@pytest.mark.parametrize("variant", ["full", "simple"])
def test_memory_is_updated_by_a_residual_prompt_of_each_clip(variant):
    torch.manual_seed(0)
    ssp = SequenceSpecificPrompt(64, variant).eval()
    memory, context = torch.randn(5, 64), torch.randn(3, 9, 64)
    updated = ssp(memory.expand(3, -1, -1), context)
    assert updated.shape == (3, 5, 64)
    assert (updated[0] - updated[1]).abs().max() > 1e-5  # sequence-specific
    assert_close(updated[1:2], ssp(memory[None], context[1:2]), terms=4 * 64, passes=2)


def test_full_variant_with_zero_output_projection_returns_the_memory():
    ssp = SequenceSpecificPrompt(64, "full").eval()
    torch.nn.init.zeros_(ssp.out_proj[1].weight)
    memory = torch.randn(2, 5, 64)
    torch.testing.assert_close(ssp(memory, torch.randn(2, 3, 64)), memory)


def test_parameter_counts_of_the_paper():
    """Table 6: a layer of the paper's SSP (`simple`) costs 3.15 M parameters."""
    counts = [sum(p.numel() for p in SequenceSpecificPrompt(512, "simple", n).parameters()) for n in (1, 2)]
    assert round((counts[1] - counts[0]) / 1e6, 2) == 3.15


def test_initialisation():
    torch.manual_seed(0)
    ssp = SequenceSpecificPrompt(512, "full")
    linears = [m for m in ssp.modules() if isinstance(m, torch.nn.Linear)]
    for linear in linears:
        assert math.isclose(linear.weight.std().item(), 0.02, rel_tol=0.05)
        assert linear.bias is None or not linear.bias.any()
    assert ssp.layers[0].cross_attn.q_proj.bias is None and ssp.layers[0].cross_attn.out_proj.bias is not None


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    ssp = SequenceSpecificPrompt(64, "full")
    memory, context = torch.randn(1, 5, 64), torch.randn(1, 3, 64)
    assert not torch.equal(ssp(memory, context), ssp(memory, context))
    ssp.eval()
    assert torch.equal(ssp(memory, context), ssp(memory, context))


def test_wrong_variant_and_width_are_refused():
    with pytest.raises(ValueError, match="full or simple"):
        SequenceSpecificPrompt(64, "paper")
    with pytest.raises(ValueError, match="multiple of 64"):
        SequenceSpecificPrompt(96)
