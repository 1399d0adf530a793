"""CLIP's image encoder (timm's) for clips: token features, projection, camera embedding, stride (Eq. 2-5).

B clips, T frames, N tokens per frame (1 class + patches), D width, E projection width, K cameras.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import timm
import torch
from timm.models import PretrainedCfg, checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from utils.errors import InputError

TIMM_NAMES = {
    "ViT-B-16": "vit_base_patch16_clip_quickgelu_224.openai",
    "ViT-L-14": "vit_large_patch14_clip_quickgelu_224.openai",
    "RN50": "resnet50_clip.openai",
}
OPENAI_FILES = {  # timm's architecture -> the file that OpenAI distributes
    "vit_base_patch32_clip_quickgelu_224": "ViT-B-32.pt",
    "vit_base_patch16_clip_quickgelu_224": "ViT-B-16.pt",
    "vit_large_patch14_clip_quickgelu_224": "ViT-L-14.pt",
    "vit_large_patch14_clip_quickgelu_336": "ViT-L-14-336px.pt",
    "resnet50_clip": "RN50.pt",
    "resnet101_clip": "RN101.pt",
    "resnet50x4_clip": "RN50x4.pt",
    "resnet50x16_clip": "RN50x16.pt",
    "resnet50x64_clip": "RN50x64.pt",
}
# Weights that open_clip (3.3) lists with QuickGELU and timm keeps under the GELU name alone.
_KEPT_AS = {"vit_base_patch16_clip_quickgelu_224.dfn2b": "vit_base_patch16_clip_224.dfn2b"}


class ClipTokens(NamedTuple):
    """What an image encoder computes for a batch of clips; G is D in a ViT and wider in a CNN."""

    tokens: Tensor  # z (B, T, N, D), after the last LayerNorm
    projected: Tensor  # p (B, T, N, E), the class token first
    pooled: Tensor  # (B, T, G) one feature per frame, whose mean over T is v_g: the class token of z
    penultimate = None  # not a field here, one of `ClipTokensWithPenultimate`


class ClipTokensWithPenultimate(NamedTuple):
    """`ClipTokens` of a ViT that was asked for the class token before its last block too."""

    tokens: Tensor  # z (B, T, N, D)
    projected: Tensor  # p (B, T, N, E)
    pooled: Tensor  # (B, T, D)
    penultimate: Tensor  # (B, T, D) the class token that the last block gets, without a LayerNorm


class CLIPImageEncoder(nn.Module):
    """timm's CLIP ViT; the projection is applied to all tokens, the camera embedding to the class token only."""

    pooled_in_retrieval = True  # the retrieval feature holds v_g
    tower = "vit"  # the attribute that holds timm's model, and so the first part of its weights' names
    positions = "vit.pos_embed"  # (1, N, D) the weight whose size depends on the grid

    def __init__(
        self,
        vit: VisionTransformer,
        num_cameras: int = 0,
        sie_coefficient: float = 1.0,
        grad_checkpoint: bool = False,
        penultimate: bool = False,
    ) -> None:
        """`vit` comes from `create_vit`; `num_cameras` 0 means no camera embedding.

        `grad_checkpoint` recomputes each block in the backward pass instead of keeping its activations. `penultimate`
        also gives the class token before the last block.
        """
        super().__init__()
        self.vit = vit
        self.grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)  # patches (down, across) of a frame
        self.width = self.pooled_width = vit.embed_dim  # channels of a token (D) and of a frame's pooled feature (G)
        self.embed_width = vit.num_classes  # channels after the projection (E)
        self.grad_checkpoint = grad_checkpoint
        self.penultimate = penultimate
        self.sie_coefficient = sie_coefficient
        self.camera_embed: nn.Parameter | None = None
        # Set by `map_cameras`, used in eval mode: the row of each camera of the data, -1 where training never saw it;
        # and the rows whose mean such a camera gets. While both are None, the row is the camera's own number.
        self.register_buffer("camera_rows", None, persistent=False)  # (cameras of the data,) int64
        self.register_buffer("substitute_rows", None, persistent=False)  # (rows,) int64
        if num_cameras:
            self.camera_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_cameras, vit.embed_dim), std=0.02))

    def map_cameras(self, rows: Sequence[int | None], trained: Sequence[int], unseen: str) -> None:
        """Set the row of the table for each camera of the data, None where training never saw the camera.

        Such a camera gets no embedding with `unseen` 'off', and the mean of the `trained` rows with 'mean'. This holds
        in eval mode only: in training mode a camera has the row of its own number.
        """
        if unseen not in ("off", "mean"):
            raise ValueError(f"unseen must be off or mean, found {unseen}")
        device = self.vit.pos_embed.device
        self.camera_rows = torch.tensor([-1 if row is None else row for row in rows], device=device)
        self.substitute_rows = torch.tensor(list(trained) if unseen == "mean" else [], dtype=torch.long, device=device)

    def _camera_embedding(self, camids: Tensor) -> Tensor:
        """(B, D) of cameras (B,)."""
        if self.training or self.camera_rows is None:
            return self.camera_embed[camids]
        rows = self.camera_rows[camids]
        substitute = self.camera_embed[self.substitute_rows].sum(dim=0) / max(1, len(self.substitute_rows))
        return torch.where((rows >= 0)[:, None], self.camera_embed[rows.clamp(min=0)], substitute)

    def forward(self, clips: Tensor, camids: Tensor | None = None) -> ClipTokens | ClipTokensWithPenultimate:
        """Normalised clips (B, T, 3, H, W) and camids (B,) or None -> z (B, T, N, D), p (B, T, N, E)."""
        B, T = clips.shape[:2]
        vit = self.vit
        patches = vit.patch_embed(clips.flatten(0, 1))  # (B*T, N-1, D)
        cls_BTD = vit.cls_token.expand(B, T, -1)
        if self.camera_embed is not None and camids is not None:
            cls_BTD = cls_BTD + self.sie_coefficient * self._camera_embedding(camids)[:, None]
        tokens = torch.cat([cls_BTD.reshape(B * T, 1, -1), patches], dim=1) + vit.pos_embed  # (B*T, N, D)
        tokens = self._through(vit.blocks[:-1], vit.norm_pre(tokens))
        penultimate = tokens[:, 0].unflatten(0, (B, T)) if self.penultimate else None
        tokens = vit.norm(self._through(vit.blocks[-1:], tokens))
        tokens, projected = (x.unflatten(0, (B, T)) for x in (tokens, vit.head(tokens)))
        if penultimate is not None:
            return ClipTokensWithPenultimate(tokens, projected, tokens[:, :, 0], penultimate)
        return ClipTokens(tokens, projected, pooled=tokens[:, :, 0])

    def _through(self, blocks: nn.Sequential, tokens: Tensor) -> Tensor:
        """Tokens (B*T, N, D) through some of the blocks."""
        recompute = self.grad_checkpoint and torch.is_grad_enabled()
        return checkpoint_seq(blocks, tokens) if recompute else blocks(tokens)


def timm_name(name: str) -> str:
    """timm's name of MODEL.NAME."""
    return TIMM_NAMES.get(name, name)


def timm_weights(name: str) -> PretrainedCfg:
    """timm's record of the weights that MODEL.NAME's tag names, or timm's default tag where it has none.

    Raises RuntimeError for a tag that timm does not know.
    """
    return timm.get_pretrained_cfg(_KEPT_AS.get(timm_name(name), timm_name(name)))


def weights_name(name: str) -> str:
    """Architecture and tag that MODEL.NAME stands for, such as vit_base_patch16_clip_224.laion2b."""
    return f"{_architecture(name)}.{timm_weights(name).tag}"


def activation(name: str) -> str:
    """The activation of the CLIP ViT MODEL.NAME."""
    return "QuickGELU" if "_quickgelu_" in timm_name(name) else "GELU"


def _architecture(name: str) -> str:
    return timm_name(name).partition(".")[0]


def is_resnet(name: str) -> bool:
    """Whether MODEL.NAME is one of CLIP's ResNets (with its attention pool), not a ViT."""
    return re.fullmatch(r"resnet\w+_clip(\..+)?", timm_name(name)) is not None


def patch_size(name: str) -> int | None:
    """Pixels, the side of a patch of the CLIP ViT MODEL.NAME; None where the name does not say it."""
    found = re.search(r"_patch(\d+)_", timm_name(name))
    return int(found[1]) if found else None


def check_stride(stride: Sequence[int], patch: int) -> None:
    """Raise InputError for a MODEL.STRIDE_SIZE that skips pixels between patches of `patch` pixels."""
    if max(stride) > patch:
        raise InputError(
            f"MODEL.STRIDE_SIZE {list(stride)} is larger than a patch of {patch} pixels, so pixels would be skipped; "
            f"set it to [{patch}, {patch}] or less"
        )


def openai_file_name(name: str) -> str | None:
    """The file that OpenAI distributes for MODEL.NAME, such as ViT-B-16.pt; None for weights of others."""
    return OPENAI_FILES.get(_architecture(name)) if timm_weights(name).tag == "openai" else None


def weights_file(name: str) -> str:
    """The file with the weights of MODEL.NAME for advice in messages, such as "OpenAI's ViT-B-16.pt"."""
    file = openai_file_name(name)
    return f"OpenAI's {file}" if file else f"model.safetensors of https://huggingface.co/{timm_weights(name).hf_hub_id}"


def check_name(name: str, choice: str = "none") -> None:
    """Raise InputError unless `name` is a CLIP ViT or CLIP ResNet of timm.

    `choice` is MODEL.PRETRAIN_CHOICE: with 'openai' and 'timm' a ViT must have the activation that its weights were
    made with; ResNets have one activation only.
    """
    full_name, example = timm_name(name), f"such as {TIMM_NAMES['ViT-B-16']}"
    is_vit = full_name.startswith("vit_") and "_clip_" in full_name
    if not ((is_vit or is_resnet(name)) and timm.is_model(full_name)):
        known = ", ".join(TIMM_NAMES)
        raise InputError(f"MODEL.NAME '{name}' must be {known} or another CLIP ViT or CLIP ResNet of timm, {example}")
    architecture, _, tag = full_name.partition(".")
    quick = re.sub("_clip_(?!quickgelu_)", "_clip_quickgelu_", architecture)
    # timm offers weights that were made with QuickGELU under the name with GELU too.
    tags = _clip_tags(architecture) - (_clip_tags(quick) if quick != architecture else set())
    take = f"take {architecture} with one of the tags {', '.join(sorted(tags))}" if tags else f"take CLIP, {example}"
    try:
        tag = timm_weights(name).tag
    except RuntimeError:
        raise InputError(f"MODEL.NAME '{name}': timm knows no weights '{tag}' of it; {take}") from None
    if "_ft_" in tag:  # fine-tuned: a head for classes has replaced CLIP's projection
        raise InputError(f"MODEL.NAME '{name}' is a classifier made from CLIP ({tag}); {take}")
    if choice == "openai" and is_vit and not ("_quickgelu_" in full_name and full_name.endswith(".openai")):
        raise InputError(
            f"MODEL.NAME '{name}' is not the variant with QuickGELU that OpenAI's weights need (…_quickgelu_….openai, "
            f"{example}); MODEL.PRETRAIN_CHOICE 'timm' takes the weights that the tag names, 'none' starts from scratch"
        )
    if choice == "timm" and tag not in tags:
        raise InputError(
            f"MODEL.NAME '{name}' has GELU, the weights '{tag}' were made with QuickGELU; take {quick}.{tag}"
        )


def _clip_tags(architecture: str) -> set[str]:
    """The tags of `architecture` in timm but those of classifiers."""
    names = (name.partition(".") for name in [*timm.list_pretrained(f"{architecture}.*"), *_KEPT_AS])
    return {tag for of, _, tag in names if of == architecture and "_ft_" not in tag}


def create_vit(
    name: str, image_size: Sequence[int], stride: Sequence[int] | None = None, **sizes: int
) -> VisionTransformer:
    """timm's CLIP ViT `name` with random weights, a bias-free projection as its head and a grid for `image_size`.

    `stride` (vertical, horizontal pixels) below the patch size gives overlapping patches. `sizes` are timm's
    embed_dim, depth, num_heads, patch_size, num_classes. Raises InputError for a name that is no CLIP ViT of timm's.
    """
    check_name(name)
    if is_resnet(name):
        raise ValueError(f"{name} is a ResNet")
    sizes = {"num_classes": timm_weights(name).num_classes} | sizes
    try:
        vit = timm.create_model(_architecture(name), pretrained=False, img_size=tuple(image_size), **sizes)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise InputError(f"timm cannot build MODEL.NAME '{name}' with MODEL.ENCODER {sizes}: {error}") from None
    vit.head = nn.Linear(vit.embed_dim, vit.num_classes, bias=False)  # CLIP's projection has no bias
    if stride is not None:
        _set_stride(vit, image_size, stride)
    _init_by_width(vit)
    return vit


def _set_stride(vit: VisionTransformer, image_size: Sequence[int], stride: Sequence[int]) -> None:
    patch_embed = vit.patch_embed
    patch = patch_embed.patch_size
    grid = tuple((image_size[axis] - patch[axis]) // stride[axis] + 1 for axis in (0, 1))
    if min(grid) < 1:
        raise InputError(f"INPUT.SIZE_TRAIN {list(image_size)} is smaller than a patch of {patch} pixels")
    check_stride(stride, patch[0])
    patch_embed.proj.stride = tuple(stride)
    patch_embed.grid_size = grid
    patch_embed.num_patches = grid[0] * grid[1]
    if vit.pos_embed.shape[1] != 1 + patch_embed.num_patches:
        vit.pos_embed = nn.Parameter(torch.empty(1, 1 + patch_embed.num_patches, vit.embed_dim))


def _init_by_width(vit: VisionTransformer) -> None:
    """Scale width^-0.5 as in CLIP, for an encoder from scratch; timm's fixed 0.02 starves narrow encoders of signal."""
    std = vit.embed_dim**-0.5
    for parameter in (vit.cls_token, vit.pos_embed, vit.head.weight):
        nn.init.normal_(parameter, std=std)
    for block in vit.blocks:
        nn.init.xavier_uniform_(block.attn.qkv.weight)
        for linear in (block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            nn.init.normal_(linear.weight, std=std)


def resize_positions(positions: Tensor, grid: Sequence[int], old_grid: Sequence[int] | None = None) -> Tensor:
    """Position embeddings (1 + h*w, D) of one grid -> (1 + new h * new w, D): class kept, grid resized bilinearly.

    The old grid is square when it is not given. Raises InputError when the tokens do not fill it.
    """
    class_position, patches = positions[:1], positions[1:]
    if old_grid is None:
        side = round(len(patches) ** 0.5)
        old_grid = (side, side)
    if not len(patches) or old_grid[0] * old_grid[1] != len(patches):
        raise InputError(f"position embeddings of {len(positions)} tokens do not form a grid of {tuple(old_grid)}")
    image = patches.unflatten(0, tuple(old_grid)).permute(2, 0, 1)[None]  # (1, D, h, w)
    resized = F.interpolate(image.float(), size=tuple(grid), mode="bilinear", align_corners=False, antialias=False)
    return torch.cat([class_position, resized[0].flatten(1).T.to(positions.dtype)])
