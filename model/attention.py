"""Where the network looks: attention weights of one forward pass, without a change of its numbers.

Three things are read off: the class token's attention over the patches, rolled out over the encoder's blocks (Abnar and
Zuidema 2020, arXiv 2005.00928); that of a frame's memory token in MD; that of the memory tokens over each other in TMC.
Queries and keys are those that the pass itself computes. The weights, which fused attention does not give away, are
computed from them again, in float32.

What they do not say: a weight tells from where a token takes values, not what these are worth to the feature. Roll-out
takes the residual for half of what a block passes on and all heads for equally important, and leaves out values, norms
and MLPs: it sketches how patches can reach the class token, and is no evidence that a patch decided a match. MD and TMC
add what they attend to to what the token already holds, and v_t is the mean over all N+1 tokens of a frame, of which
the memory token is one.

B clips, T frames, M sequences (frames or clips), N tokens of a sequence (in a frame 1 class token + h*w patches), R
queries, d width of a head, F features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from model.resnet_encoder import STRIDE, CLIPResNetEncoder
from model.tfclip import TFCLIP


@dataclass(frozen=True)
class AttentionMaps:
    """Attention weights of clips: means over the heads, float32, every row adds up to 1."""

    features: Tensor  # (B, F) the retrieval features, as `embed` gives them
    class_row: Tensor  # (B, T, N) of the class token over itself and the patches, these row by row
    memory_row: Tensor | None  # (B, T, N+1) of the memory token over class token, patches, itself; None without TMC, MD
    frames: Tensor | None  # (B, T, T) of each frame's memory token (row) over those of all frames; None without TMC
    grid: tuple[int, int]  # patches (down, across): h, w
    patch: tuple[int, int]  # pixels, the sides of a patch (height, width); of a CNN one step of its grid
    stride: tuple[int, int]  # pixels from patch to patch
    rolled_out: int  # blocks; 0 for a CNN, of which `class_row` shows the attention pool, whose query is the mean patch

    @property
    def class_map(self) -> Tensor:
        """(B, T, h, w): `class_row` on the patches. What is missing to 1 lies on the class token."""
        return self.class_row[:, :, 1:].unflatten(2, self.grid)

    @property
    def memory_map(self) -> Tensor | None:
        """(B, T, h, w): `memory_row` on the patches. What is missing to 1 lies on the class and the memory token."""
        return None if self.memory_row is None else self.memory_row[:, :, 1:-1].unflatten(2, self.grid)


@torch.inference_mode()
def attention_maps(model: TFCLIP, clips: Tensor, camids: Tensor | None = None) -> AttentionMaps:
    """The weights of `model.embed` of normalised clips (B, T, 3, H, W) and cameras (B,) or None.

    The pass runs in the caller's number type. Raises ValueError for a model in training mode.
    """
    if model.training:
        raise ValueError("attention is read in eval mode: call model.eval() first")
    encoder, tmd = model.encoder, model.tmd
    is_cnn = isinstance(encoder, CLIPResNetEncoder)
    construction = None if tmd is None else tmd.construction
    diffusion = None if construction is None else tmd.diffusion  # MD alone has no memory token
    if is_cnn:
        pool = encoder.cnn.head
        watched = {linear: partial(_split_heads, heads=pool.num_heads) for linear in (pool.q, pool.k)}
    else:
        watched = {block.attn.qkv: partial(_mean_weights, block.attn) for block in encoder.vit.blocks}
    if construction is not None:
        watched[construction.attn.qkv] = partial(_mean_weights, construction.attn)
    if diffusion is not None:
        watched[diffusion.attn.qkv] = partial(_mean_weights, diffusion.attn, queries=slice(-1, None))
    with _outputs(watched) as seen:
        features = model.embed(clips, camids)
    if is_cnn:
        class_MRN = head_weights(seen[pool.q][:, :, :1], seen[pool.k]).mean(dim=1)
    else:
        class_MRN = roll_out([seen[block.attn.qkv] for block in encoder.vit.blocks])
    return AttentionMaps(
        features,
        class_row=class_MRN[:, 0].unflatten(0, clips.shape[:2]),
        memory_row=None if diffusion is None else seen[diffusion.attn.qkv][:, 0].unflatten(0, clips.shape[:2]),
        frames=None if construction is None else seen[construction.attn.qkv],
        grid=encoder.grid,
        patch=(STRIDE, STRIDE) if is_cnn else tuple(encoder.vit.patch_embed.patch_size),
        stride=(STRIDE, STRIDE) if is_cnn else tuple(encoder.vit.patch_embed.proj.stride),
        rolled_out=0 if is_cnn else len(encoder.vit.blocks),
    )


def roll_out(blocks: Sequence[Tensor]) -> Tensor:
    """Weights (M, N, N) of each block, first block first -> what reaches each token from those of the input (M, N, N).

    The product A'_L ... A'_1 of A' = 0.5 A + 0.5 I, whose rows add up to 1 as those of A do.
    """
    rolled = torch.eye(blocks[0].shape[-1], device=blocks[0].device).expand_as(blocks[0])
    with torch.autocast(rolled.device.type, enabled=False):
        for weights in blocks:
            rolled = 0.5 * (weights @ rolled) + 0.5 * rolled
    return rolled


def head_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) in float32, of q (M, heads, R, d) and k (M, heads, N, d): (M, heads, R, N)."""
    with torch.autocast(q.device.type, enabled=False):
        return (q.float() @ k.float().transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=3)


def split_qkv(attn: Attention, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v, each (M, heads, N, d), of what timm's `attn.qkv` gives (M, N, 3 * heads * d)."""
    q, k, v = qkv.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return attn.q_norm(q), attn.k_norm(k), v


def _mean_weights(attn: Attention, qkv: Tensor, queries: slice = slice(None)) -> Tensor:
    """Weights (M, R, N) of these queries, the mean over the heads."""
    q, k, _ = split_qkv(attn, qkv)
    return head_weights(q[:, :, queries], k).mean(dim=1)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(M, N, heads * d) -> (M, heads, N, d)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


@contextmanager
def _outputs(watched: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[dict[nn.Module, Tensor]]:
    """Keep, within, what the function of each module makes of its output; the output itself goes on as it is."""
    seen: dict[nn.Module, Tensor] = {}

    def hook(module: nn.Module, _: tuple, output: Tensor) -> None:
        seen[module] = watched[module](output)

    with ExitStack() as hooks:
        for module in watched:
            hooks.enter_context(module.register_forward_hook(hook))
        yield seen
