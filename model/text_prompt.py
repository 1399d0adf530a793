"""Learned prompts of the text baseline: "A photo of a X X X X person." with four context tokens X per identity.

n prompts, S token positions (77), W text width, E projection width, C identities.
"""

import torch
from torch import Tensor, nn

from model.text_encoder import NUM_POSITIONS, TextTower, create_tokenizer

NUM_CONTEXT = 4  # learned tokens per identity
_BEFORE, _PLACEHOLDER, _AFTER = "A photo of a", "X", "person."


class TextPrompts(nn.Module):
    """Embeddings of one prompt per identity; only the context is learned (CLIP-ReID, arXiv 2211.13977)."""

    def __init__(self, tower: TextTower, num_classes: int) -> None:
        """The fixed words take their embeddings from `tower`, which must hold its weights already."""
        super().__init__()
        self.num_classes = num_classes  # identities (C)
        tokenizer = create_tokenizer()
        before = [tokenizer.sot_token_id, *tokenizer.encode(_BEFORE)]
        after = [*tokenizer.encode(_AFTER), tokenizer.eot_token_id]
        ids = before + NUM_CONTEXT * tokenizer.encode(_PLACEHOLDER) + after
        ids += [0] * (NUM_POSITIONS - len(ids))  # padding after the end token is never attended to
        tokens_S = torch.tensor(ids, device=tower.device)  # (S,)
        words_SW = tower.embed_tokens(tokens_S)  # (S, W)
        self.context = nn.Parameter(
            nn.init.normal_(words_SW.new_empty(num_classes, NUM_CONTEXT, tower.width), std=0.02)
        )
        self.register_buffer("tokens", tokens_S)  # (S,)
        self.register_buffer("prefix", words_SW[: len(before)])  # (start and first words, W)
        self.register_buffer("suffix", words_SW[len(before) + NUM_CONTEXT :])  # (last word, end and padding, W)

    def forward(self, labels: Tensor) -> Tensor:
        """Labels (n,) in 0..C-1 -> prompt embeddings (n, S, W), without positions."""
        n = len(labels)
        return torch.cat([self.prefix.expand(n, -1, -1), self.context[labels], self.suffix.expand(n, -1, -1)], dim=1)


class TextBranch(nn.Module):
    """Prompts and the frozen tower that reads them."""

    def __init__(self, tower: TextTower, prompts: TextPrompts) -> None:
        super().__init__()
        self.tower = tower
        self.prompts = prompts

    def forward(self, labels: Tensor) -> Tensor:
        """Labels (n,) in 0..C-1 -> text features (n, E), not normalised."""
        return self.tower(self.prompts(labels), self.prompts.tokens.expand(len(labels), -1))
