"""Prompts: the fixed words are the tokenizer's and the tower's, the context is each identity's own."""

import pytest
import torch

from model.text_encoder import TextSizes, create_text_tower, create_tokenizer
from model.text_prompt import TextBranch, TextPrompts
from tests.tolerance import assert_close

pytest.importorskip("open_clip")
TINY = TextSizes(width=64, heads=2, depth=2, embed_width=32)
WORDS = "A photo of a {} person."


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(1)
    return create_text_tower(TINY)


def test_tokens_are_those_of_the_written_prompt(tower):
    tokens = TextPrompts(tower, 3).tokens
    assert torch.equal(tokens, create_tokenizer()([WORDS.format("X X X X")])[0])
    # start, a photo of a, four X, person ., end, padding
    assert tokens.tolist() == [49406, 320, 1125, 539, 320, 343, 343, 343, 343, 2533, 269, 49407] + [0] * 65


def test_the_context_stands_at_its_four_places_and_nothing_else_differs(tower):
    prompts = TextPrompts(tower, 3)
    labels = torch.tensor([2, 0, 2, 1])
    output = prompts(labels)
    assert output.shape == (4, 77, 64)
    words = tower.embed_tokens(prompts.tokens)
    for row, label in enumerate(labels.tolist()):
        assert torch.equal(output[row, 5:9], prompts.context[label])
        assert torch.equal(output[row, :5], words[:5]) and torch.equal(output[row, 9:], words[9:])


@torch.no_grad()
def test_words_in_place_of_the_context_give_the_features_of_the_written_text(tower):
    """The whole branch against open_clip's own forward on token ids."""
    texts = ["nice young tall man", "small old red woman"]
    tokens = create_tokenizer()([WORDS.format(text) for text in texts])
    prompts = TextPrompts(tower, 2)
    prompts.context.copy_(tower.embed_tokens(tokens[:, 5:9]))
    features = TextBranch(tower, prompts)(torch.tensor([1, 0]))
    assert_close(features, tower.text(tokens.flip(0)), 4 * TINY.width, TINY.depth)
    assert not torch.allclose(features[0], features[1], atol=1e-2)


def test_only_the_context_is_learned(tower):
    prompts = TextPrompts(tower, 5)
    branch = TextBranch(tower, prompts).train()
    assert [name for name, p in branch.named_parameters() if p.requires_grad] == ["prompts.context"]
    branch(torch.tensor([3, 3, 1])).square().sum().backward()
    moved = prompts.context.grad.abs().sum(dim=(1, 2)) > 0
    assert moved.tolist() == [False, True, False, True, False]
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_the_context_starts_with_standard_deviation_0_02(tower):
    torch.manual_seed(0)
    prompts = TextPrompts(tower, 200)
    assert prompts.context.shape == (200, 4, 64) and prompts.num_classes == 200
    assert prompts.context.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(prompts.context.mean().item()) < 5e-4


def test_the_branch_runs_on_the_meta_device():
    """Its cost is counted there, without weights."""
    with torch.device("meta"):
        branch = TextBranch(tower := create_text_tower(TINY), TextPrompts(tower, 5))
        assert branch(torch.zeros(2, dtype=torch.long)).shape == (2, 32)
