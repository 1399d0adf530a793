"""SSP, sequence-specific prompt (Eq. 7-8): the memory of every identity attends to the clip before the comparison.

B clips, N tokens per frame, C identities, E projection width.
"""

from timm.layers import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_WIDTH = 64
_DROPOUT = 0.1


class SequenceSpecificPrompt(nn.Module):
    """M' = M + SSP(M, context).

    `full` (release, the authors' MARS weights) projects context, memory and output and has self-attention in its
    layers; `simple` (the authors' LS-VID and iLIDS-VID weights, the paper's figure) has neither.
    """

    def __init__(self, width: int, variant: str = "full", num_layers: int = 2) -> None:
        super().__init__()
        if variant not in ("full", "simple"):
            raise ValueError(f"SSP variant must be full or simple, found {variant}")
        self.variant = variant
        full = variant == "full"
        if full:
            self.context_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width))
            self.memory_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
            self.out_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        else:
            self.context_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(PromptLayer(width, self_attention=full) for _ in range(num_layers))
        self.apply(_init_linear)

    def forward(self, memory_BCE: Tensor, context_BNE: Tensor) -> Tensor:
        """(B, C, E) memory and (B, N, E) mean tokens of the clip -> (B, C, E) updated memory.

        A memory (1, C, E) is the same for every clip. Its projection and the first self-attention, before the first
        dropout and the first attention to a clip, are then computed once instead of B times.
        """
        if self.variant == "full":
            context_BNE = self.context_proj(context_BNE)
            prompt_BCE = self.memory_proj(memory_BCE)
        else:
            context_BNE = self.context_norm(context_BNE)
            prompt_BCE = memory_BCE
        for layer in self.layers:
            prompt_BCE = layer(prompt_BCE, context_BNE)
        if self.variant == "full":
            prompt_BCE = self.out_proj(prompt_BCE)
        return memory_BCE + prompt_BCE


class PromptLayer(nn.Module):
    """Pre-norm decoder layer: [self-attention,] cross-attention to the clip, MLP; each with a residual."""

    def __init__(self, width: int, self_attention: bool) -> None:
        super().__init__()
        if self_attention:
            self.self_norm = nn.LayerNorm(width)
            self.self_attn = PromptAttention(width)
        self.has_self_attention = self_attention
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attn = PromptAttention(width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), QuickGELU(), nn.Dropout(_DROPOUT), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, x_BCE: Tensor, context_BNE: Tensor) -> Tensor:
        """(B, C, E), or (1, C, E) for all clips, attends to (B, N, E) -> (B, C, E)."""
        num_clips = len(context_BNE)
        if self.has_self_attention:
            normed = self.self_norm(x_BCE)
            attended = self.self_attn(normed, normed)  # (1 or B, C, E)
            x_BCE = x_BCE + self.dropout(attended.expand(num_clips, -1, -1))  # another dropout mask for each clip
        x_BCE = x_BCE + self.dropout(self.cross_attn(self.cross_norm(x_BCE), context_BNE))
        return x_BCE + self.dropout(self.mlp(self.mlp_norm(x_BCE)))


class PromptAttention(nn.Module):
    """Multi-head attention, heads 64 wide; q, k, v without bias, output with bias; dropout is left to the layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % HEAD_WIDTH:
            raise ValueError(f"SSP needs a width that is a multiple of {HEAD_WIDTH}, found {width}")
        self.num_heads = width // HEAD_WIDTH
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width)

    def forward(self, query_BQE: Tensor, context_BKE: Tensor) -> Tensor:
        """(B, Q, E), or (1, Q, E) for all, attends to (B, K, E) -> (B, Q, E)."""
        q = self._split_heads(self.q_proj(query_BQE)).expand(len(context_BKE), -1, -1, -1)
        k = self._split_heads(self.k_proj(context_BKE))
        v = self._split_heads(self.v_proj(context_BKE))
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, Q, 64), scale 1/sqrt(64)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, L, E) -> (B, heads, L, 64)."""
        return x.unflatten(2, (self.num_heads, HEAD_WIDTH)).transpose(1, 2)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
