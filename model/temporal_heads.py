"""Temporal heads on the projected class tokens (Eq. 4) of a clip, with which the supplement's Table 5 compares TMD.

B clips, T frames, E projection width. Each head turns (B, T, E) into a clip feature (B, E), for any T.
"""

from functools import partial

import torch
from timm.layers import LayerNorm, QuickGELU
from timm.models.vision_transformer import Block
from torch import Tensor, nn

MAX_FRAMES = 77  # rows of the position tables
_LAYERS = 6


class TemporalConvolution(nn.Module):
    """CONV1D: depth-wise convolution over the frames with a residual, then the mean.

    It starts as a shift: one quarter of the channels comes from the frame before, one from the frame after.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift = nn.Conv1d(width, width, kernel_size=3, padding=1, groups=width, bias=False)
        quarter = width // 4
        with torch.no_grad():
            self.shift.weight.zero_()  # (E, 1, 3): weights of the frame before, the frame itself, the frame after
            self.shift.weight[:quarter, 0, 0] = 1
            self.shift.weight[quarter : width - quarter, 0, 1] = 1
            self.shift.weight[width - quarter :, 0, 2] = 1

    def forward(self, frames_BTE: Tensor) -> Tensor:
        """(B, T, E) -> (B, E)."""
        shifted_BTE = self.shift(frames_BTE.transpose(1, 2)).transpose(1, 2)
        return (frames_BTE.float() + shifted_BTE.float()).mean(dim=1)


class TemporalTransformer(nn.Module):
    """TRANSF: six blocks as in CLIP over frames with learned positions, a residual around them, then the mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frame_positions = nn.Parameter(torch.empty(MAX_FRAMES, width).normal_(std=0.02))
        norm_layer = partial(LayerNorm, eps=1e-5)
        self.blocks = nn.Sequential()
        for _ in range(_LAYERS):
            self.blocks.append(Block(width, width // 64, qkv_bias=True, act_layer=QuickGELU, norm_layer=norm_layer))
        self.blocks.apply(_init_linear)

    def forward(self, frames_BTE: Tensor) -> Tensor:
        """(B, T, E) -> (B, E)."""
        placed_BTE = frames_BTE + self.frame_positions[: frames_BTE.shape[1]]
        return (frames_BTE + self.blocks(placed_BTE)).mean(dim=1)


class TemporalClassTransformer(nn.Module):
    """TRANSF_CLS: torch's TransformerEncoder (six layers, 8 heads, ReLU) over frames and a class token; its output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.frame_positions = nn.Parameter(torch.empty(1 + MAX_FRAMES, width).normal_(std=0.02))  # class token first
        layer = nn.TransformerEncoderLayer(width, nhead=8, dim_feedforward=4 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, _LAYERS, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, frames_BTE: Tensor) -> Tensor:
        """(B, T, E) -> (B, E)."""
        B, T = frames_BTE.shape[:2]
        class_B1E = self.class_token.expand(B, 1, -1)
        tokens = torch.cat([class_B1E, frames_BTE], dim=1) + self.frame_positions[: 1 + T]  # (B, 1+T, E)
        return self.encoder(tokens)[:, 0]


TEMPORAL_HEADS: dict[str, type[nn.Module]] = {
    "CONV1D": TemporalConvolution,
    "TRANSF": TemporalTransformer,
    "TRANSF_CLS": TemporalClassTransformer,
}


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
