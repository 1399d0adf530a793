"""Temporal heads on the projected class tokens (Eq. 4) of a clip, with which the supplement's Table 5 compares TMD.

B clips, T frames, E projection width. Each head turns (B, T, E) into a clip feature (B, E). The release holds them in
`model/Visual_Prompt.py`, its use commented out; docs/fidelity.md says what is taken from there.
"""

from collections.abc import Callable
from functools import partial

import torch
from timm.layers import LayerNorm, QuickGELU
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from model.temporal_memory import HEAD_WIDTH, init_attention

MAX_FRAMES = 77  # rows of the position table of TRANSF
_LAYERS = 6
_STD = 0.02  # of the positions, the class token and all Linears but those of q, k, v


class TemporalConvolution(nn.Module):
    """CONV1D: depth-wise convolution over the frames with a residual, then the mean. As the paper describes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift = _shift(width)

    def forward(self, frames_BTE: Tensor) -> Tensor:
        """(B, T, E) -> (B, E)."""
        shifted_BTE = self.shift(frames_BTE.transpose(1, 2)).transpose(1, 2)
        return (frames_BTE.float() + shifted_BTE.float()).mean(dim=1)


class TemporalConvolutionView(nn.Module):
    """CONV1D_VIEW: CONV1D as the release computes it, with `view(-1, c, t)` where a transposition is due.

    The T x E values of a clip are reread row by row as (E, T), so each of the E sequences that are convolved holds
    neighbouring channels of one frame or two, not one channel of all frames.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift_view = _shift(width)  # another name than in CONV1D, whose weights would load here unnoticed

    def forward(self, frames_BTE: Tensor) -> Tensor:
        """(B, T, E) -> (B, E)."""
        B, T, E = frames_BTE.shape
        shifted_BTE = self.shift_view(frames_BTE.reshape(B, E, T)).transpose(1, 2)
        return (frames_BTE.float() + shifted_BTE.float()).mean(dim=1)


class TemporalTransformer(nn.Module):
    """TRANSF: six blocks as in CLIP over frames with learned positions, a residual around them, then the mean.

    T is at most MAX_FRAMES.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frame_positions = nn.Parameter(torch.empty(MAX_FRAMES, width).normal_(std=_STD))
        norm_layer = partial(LayerNorm, eps=1e-12)
        self.blocks = nn.Sequential()
        for _ in range(_LAYERS):
            block = Block(width, width // HEAD_WIDTH, qkv_bias=True, act_layer=QuickGELU, norm_layer=norm_layer)
            init_attention(block.apply(_init_linear).attn)
            self.blocks.append(block)

    def forward(self, frames_BTE: Tensor) -> Tensor:
        """(B, T, E) -> (B, E)."""
        placed_BTE = frames_BTE + self.frame_positions[: frames_BTE.shape[1]]
        return (frames_BTE + self.blocks(placed_BTE)).mean(dim=1)


class TemporalClassTransformer(nn.Module):
    """TRANSF_CLS: torch's TransformerEncoder (six layers, 8 heads, ReLU) over a class token and frames; its output.

    There are positions for `num_frames` frames, and clips of another length are refused.
    """

    def __init__(self, width: int, num_frames: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.empty(width).normal_(std=_STD))
        self.frame_positions = nn.Parameter(torch.empty(1 + num_frames, width).normal_(std=_STD))  # class token first
        self.encoder = nn.Sequential()  # not nn.TransformerEncoder: its layers would start as copies of one
        for _ in range(_LAYERS):
            layer = nn.TransformerEncoderLayer(width, nhead=8, dim_feedforward=4 * width, batch_first=True)
            self.encoder.append(layer.apply(_init_linear))  # q, k, v keep torch's start: joint weight Xavier, biases 0
        self.encoder.append(nn.LayerNorm(width))

    def forward(self, frames_BTE: Tensor) -> Tensor:
        """(B, T, E) -> (B, E). Raises ValueError for clips of another T than the head was built for."""
        B, T, _ = frames_BTE.shape
        if T != len(self.frame_positions) - 1:
            raise ValueError(f"TRANSF_CLS was built for clips of {len(self.frame_positions) - 1} frames, found {T}")
        class_B1E = self.class_token.expand(B, 1, -1)
        tokens = torch.cat([class_B1E, frames_BTE], dim=1) + self.frame_positions  # (B, 1+T, E)
        return self.encoder(tokens)[:, 0]


# MODEL.TEMPORAL -> what builds the head for projection width E and T frames per clip
TEMPORAL_HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "CONV1D": lambda width, _: TemporalConvolution(width),
    "CONV1D_VIEW": lambda width, _: TemporalConvolutionView(width),
    "TRANSF": lambda width, _: TemporalTransformer(width),
    "TRANSF_CLS": TemporalClassTransformer,
}


def _shift(width: int) -> nn.Conv1d:
    """Depth-wise convolution that starts as a shift: a quarter of the channels by one step each way, the rest stays."""
    convolution = nn.Conv1d(width, width, kernel_size=3, padding=1, groups=width, bias=False)
    quarter = width // 4
    with torch.no_grad():
        convolution.weight.zero_()  # (E, 1, 3): weights of the step before, the step itself, the step after
        convolution.weight[:quarter, 0, 0] = 1
        convolution.weight[quarter : width - quarter, 0, 1] = 1
        convolution.weight[width - quarter :, 0, 2] = 1
    return convolution


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=_STD)
        nn.init.zeros_(module.bias)
