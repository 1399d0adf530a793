"""TMD, temporal memory diffusion (Eq. 9-13): TMC builds one memory token per frame, MD diffuses it into the frame.

B clips, T frames, N tokens per frame, D encoder width.
"""

from functools import partial

import torch
from timm.layers import LayerNorm, QuickGELU
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn

HEAD_WIDTH = 64


class TemporalMemoryConstruction(nn.Module):
    """TMC (Eq. 9-10): m_t = Linear(mean of the tokens of frame t); over the T frames m += MHSA(LN m)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.attn = Attention(width, num_heads=width // HEAD_WIDTH, qkv_bias=True)
        init_attention(self.attn)

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        """(B, T, N, D) -> memory tokens (B, T, D)."""
        memory_BTD = self.fc(tokens_BTND.mean(dim=2))
        return memory_BTD + self.attn(self.norm(memory_BTD))


class TemporalMemoryDiffusion(nn.Module):
    """TMD: y_t = Block([z_t ; m_t]), a standard pre-norm block over the N+1 tokens of each frame (Eq. 11-13).

    Without `diffuse` (TMC alone) a frame is only its memory token; without `construct` (MD alone) the block sees only
    the N tokens of the frame.
    """

    def __init__(self, width: int, construct: bool = True, diffuse: bool = True) -> None:
        super().__init__()
        if width % HEAD_WIDTH:
            raise ValueError(f"TMD needs a width that is a multiple of {HEAD_WIDTH}, found {width}")
        if not (construct or diffuse):
            raise ValueError("TMD needs TMC, MD or both")
        self.construction = TemporalMemoryConstruction(width) if construct else None
        self.diffusion: Block | None = None
        if diffuse:
            norm_layer = partial(LayerNorm, eps=1e-5)
            heads = width // HEAD_WIDTH
            self.diffusion = Block(width, heads, qkv_bias=True, act_layer=QuickGELU, norm_layer=norm_layer)
            init_attention(self.diffusion.attn)

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        """(B, T, N, D) encoder tokens -> (B, T, N+1, D), the memory token of a frame last.

        TMC alone gives (B, T, 1, D), MD alone (B, T, N, D).
        """
        frames = tokens_BTND
        if self.construction is not None:
            memory = self.construction(tokens_BTND).unsqueeze(2)  # (B, T, 1, D)
            frames = memory if self.diffusion is None else torch.cat([tokens_BTND, memory], dim=2)
        if self.diffusion is None:
            return frames
        return self.diffusion(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


def init_attention(attn: Attention) -> None:
    """Joint q, k, v weight Xavier uniform, attention biases 0; the output weight keeps torch's default."""
    nn.init.xavier_uniform_(attn.qkv.weight)
    nn.init.zeros_(attn.qkv.bias)
    nn.init.zeros_(attn.proj.bias)
