"""CLIP's ResNet as image encoder (the CNN of the paper's supplement), around timm's `resnet50_clip` and its like.

B clips, T frames, h x w grid of layer 4, N = 1 + h*w tokens per frame (class token first), D width of a token, which is
the projection width E as well, G channels of layer 4.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain

import timm
import torch
from timm.models.byobnet import ByobNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from model.encoder import ClipTokens, check_name, is_resnet, timm_name
from utils.errors import InputError

STRIDE = 16  # pixels per step of the grid, with the last stride removed


class CLIPResNetEncoder(nn.Module):
    """timm's CLIP ResNet; a token is the attention pool's output for the class or for a position of layer 4.

    There is no class token before the pool, so there is no camera embedding.
    """

    pooled_in_retrieval = False  # the retrieval feature is [v_p ; v_t], without v_g
    tower = "cnn"  # the attribute that holds timm's model, and so the first part of its weights' names
    positions = "cnn.head.pos_embed"  # (N, G) the weight whose size depends on the grid
    camera_embed = None

    def __init__(self, cnn: ByobNet, grad_checkpoint: bool = False) -> None:
        """`cnn` comes from `create_resnet`.

        `grad_checkpoint` recomputes each block in the backward pass instead of keeping its activations.
        """
        super().__init__()
        self.cnn = cnn
        self.grid: tuple[int, int] = tuple(cnn.head.feat_size)  # positions (down, across) of layer 4
        self.width = self.embed_width = cnn.head.out_features  # channels of a token (D), which is projected (E)
        self.pooled_width = cnn.num_features  # channels of a frame's pooled feature (G)
        self.grad_checkpoint = grad_checkpoint

    def forward(self, clips: Tensor, camids: Tensor | None = None) -> ClipTokens:
        """Normalised clips (B, T, 3, H, W) -> tokens = projected (B, T, N, D), pooled (B, T, G); `camids` is ignored.

        Raises ValueError when the frames are not of the size that the position embeddings were made for.
        """
        B, T = clips.shape[:2]
        layer4 = self._layer4(clips.flatten(0, 1))  # (B*T, G, h, w)
        if tuple(layer4.shape[2:]) != self.grid:
            found = f"{tuple(clips.shape[3:])} pixels give {tuple(layer4.shape[2:])}"
            raise ValueError(f"frames of {found}, position embeddings are there for {self.grid}")
        tokens = self._attention_pool(layer4).unflatten(0, (B, T))  # (B, T, N, D)
        return ClipTokens(tokens, tokens, pooled=layer4.float().mean(dim=(2, 3)).unflatten(0, (B, T)))

    def _layer4(self, x: Tensor) -> Tensor:
        """Frames (B*T, 3, H, W) -> (B*T, G, h, w)."""
        recompute = self.grad_checkpoint and torch.is_grad_enabled()
        for block in chain([self.cnn.stem], *self.cnn.stages):
            if recompute:
                x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_checkpoint_contexts, block))
            else:
                x = block(x)
        return x

    def _attention_pool(self, layer4: Tensor) -> Tensor:
        """(B*T, G, h, w) -> (B*T, N, D).

        timm's pool gives the class or the positions, never both, and resamples the position embeddings on each call.
        """
        pool = self.cnn.head
        positions = layer4.flatten(2).transpose(1, 2)  # (B*T, h*w, G)
        x = torch.cat([positions.mean(dim=1, keepdim=True), positions], dim=1) + pool.pos_embed  # (B*T, N, G)
        q, k, v = (linear(x).unflatten(2, (pool.num_heads, -1)).transpose(1, 2) for linear in (pool.q, pool.k, pool.v))
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B*T, heads, N, G / heads)
        return pool.proj(mixed.transpose(1, 2).flatten(2))


def create_resnet(name: str, image_size: Sequence[int]) -> ByobNet:
    """timm's CLIP ResNet `name` with random weights, the last stride removed, and positions for `image_size`.

    One step of layer 4 is then 16 pixels. Raises InputError for a name that is no CLIP ResNet of timm's and for a
    size in pixels (height, width) that is no multiple of 16.
    """
    check_name(name)
    if not is_resnet(name):
        raise ValueError(f"{name} is not a ResNet")
    if any(side % STRIDE for side in image_size):
        raise InputError(f"INPUT.SIZE_TRAIN {list(image_size)}: MODEL.NAME '{name}' needs multiples of {STRIDE} pixels")
    num_classes = timm.get_pretrained_cfg(timm_name(name)).num_classes
    cnn = timm.create_model(timm_name(name), pretrained=False, img_size=tuple(image_size), num_classes=num_classes)
    _remove_last_stride(cnn)
    pool = cnn.head
    pool.feat_size = tuple(side // STRIDE for side in image_size)
    pool.seq_len = pool.feat_size[0] * pool.feat_size[1]
    std = pool.in_features**-0.5  # as in CLIP; timm starts the projection at 0.01
    pool.pos_embed = nn.Parameter(nn.init.normal_(torch.empty(1 + pool.seq_len, pool.in_features), std=std))
    nn.init.normal_(pool.proj.weight, std=std)
    return cnn


def _remove_last_stride(cnn: ByobNet) -> None:
    """CLIP's ResNets stride by average pools, one after the 3x3 convolution and one in the shortcut.

    ReID's "last stride 1" only removes them. timm's output_stride would also dilate convolutions and add a pool to the
    shortcut.
    """
    first = cnn.stages[-1][0]
    first.conv2_kxk.aa = nn.Identity()
    first.shortcut.pool = nn.Identity()


def _checkpoint_contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of a block's forward pass and of its recomputation."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """BatchNorm as in training, but the recomputation leaves the running statistics as they are.

    With a momentum of 0 they are still updated, by nothing: the recomputation must save the same tensors for the
    backward pass as the forward pass does.
    """
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
