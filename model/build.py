"""Config and counts -> TFCLIP."""

from pathlib import Path
from typing import NamedTuple

from yacs.config import CfgNode

from configs import uses_weights_statistics
from model.encoder import (
    CLIPImageEncoder,
    check_name,
    check_stride,
    create_vit,
    is_resnet,
    openai_file_name,
    patch_size,
    timm_weights,
    weights_name,
)
from model.resnet_encoder import CLIPResNetEncoder, create_resnet
from model.sequence_prompt import SequenceSpecificPrompt
from model.temporal_heads import TEMPORAL_HEADS
from model.temporal_memory import TemporalMemoryDiffusion
from model.text_encoder import (
    create_text_tower,
    import_open_clip,
    load_text_tower,
    require_text_path,
    scratch_text_sizes,
    text_sizes,
)
from model.text_prompt import TextBranch, TextPrompts
from model.tfclip import TFCLIP
from model.weights import load_pretrained

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")  # of weight files in a folder


class PixelStatistics(NamedTuple):
    """What frames are normalised with, RGB in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str  # whose they are, for the log


def build_model(cfg: CfgNode, num_classes: int, num_cameras: int, pretrained: bool = True) -> TFCLIP:
    """TF-CLIP on the CPU for `num_classes` training identities and `num_cameras` cameras.

    With `pretrained` and MODEL.PRETRAIN_CHOICE 'openai' or 'timm' the encoder holds CLIP's weights; evaluation and
    resuming pass False, since they fill the model from another file. Raises InputError for an unknown MODEL.NAME or
    weights that do not fit.
    """
    check_model(cfg)
    keys = cfg.MODEL
    encoder = _build_encoder(cfg, num_cameras)
    ssp = tmd = temporal_head = None
    if keys.SSP.ENABLED:
        ssp = SequenceSpecificPrompt(encoder.embed_width, keys.SSP.VARIANT, keys.SSP.LAYERS)
    if keys.TEMPORAL == "TMD":
        tmd = TemporalMemoryDiffusion(encoder.width, construct=keys.TMD.TMC, diffuse=keys.TMD.MD)
    elif keys.TEMPORAL != "TAP":
        temporal_head = TEMPORAL_HEADS[keys.TEMPORAL](encoder.embed_width, cfg.INPUT.SEQ_LEN)
    model = TFCLIP(encoder, ssp, tmd, num_classes, cfg.TEST.NECK_FEAT, temporal_head)
    if pretrained and cfg.MODEL.PRETRAIN_CHOICE != "none":
        load_pretrained(model, cfg.MODEL.NAME, pretrained_path(cfg))
    return model


def build_text_branch(cfg: CfgNode, model: TFCLIP, pretrained: bool = True) -> TextBranch:
    """Text tower and prompts of the text baseline (MODEL.MEMORY 'text') for the identities of `model`.

    With `pretrained` and CLIP's weights the tower comes from the file in MODEL.PRETRAIN_PATH. Raises InputError where
    open_clip_torch is absent or the file holds no such tower.
    """
    keys = cfg.MODEL
    if keys.PRETRAIN_CHOICE == "none":
        tower = create_text_tower(scratch_text_sizes(model.encoder.embed_width, keys.ENCODER.TEXT_DEPTH))
    else:
        tower = create_text_tower(text_sizes(keys.NAME))
        if pretrained:
            load_text_tower(tower, keys.NAME, pretrained_path(cfg))
    return TextBranch(tower, TextPrompts(tower, model.num_classes))


def pretrained_path(cfg: CfgNode) -> str:
    """MODEL.PRETRAIN_PATH or, if it is a folder, the path of the file of MODEL.NAME in it.

    That is OpenAI's file, or one with the full name of the weights, such as vit_base_patch16_clip_224.laion2b.pt.
    """
    path, name = cfg.MODEL.PRETRAIN_PATH, cfg.MODEL.NAME
    if not (path and Path(path).is_dir()):
        return path
    names = [f"{weights_name(name)}{suffix}" for suffix in _SUFFIXES]
    files = [Path(path) / file for file in (openai_file_name(name), *names) if file]
    return str(next((file for file in files if file.is_file()), files[0]))


def pixel_statistics(cfg: CfgNode) -> PixelStatistics:
    """Mean and standard deviation of pixels that INPUT.PIXEL_STATISTICS chooses: those of its keys or of the weights.

    Raises InputError for an unknown MODEL.NAME.
    """
    if not uses_weights_statistics(cfg):
        keys = cfg.INPUT
        return PixelStatistics(tuple(keys.PIXEL_MEAN), tuple(keys.PIXEL_STD), "INPUT.PIXEL_MEAN, INPUT.PIXEL_STD")
    check_name(cfg.MODEL.NAME, cfg.MODEL.PRETRAIN_CHOICE)
    weights = timm_weights(cfg.MODEL.NAME)
    return PixelStatistics(tuple(weights.mean), tuple(weights.std), f"timm's record of {weights_name(cfg.MODEL.NAME)}")


def check_text(cfg: CfgNode) -> None:
    """Raise InputError when the text baseline that the config asks for cannot be built, before any data are read."""
    if cfg.MODEL.MEMORY != "text":
        return
    import_open_clip()
    if cfg.MODEL.PRETRAIN_CHOICE == "openai":
        text_sizes(cfg.MODEL.NAME)
        require_text_path(cfg.MODEL.NAME, cfg.MODEL.PRETRAIN_PATH)


def _build_encoder(cfg: CfgNode, num_cameras: int) -> CLIPImageEncoder | CLIPResNetEncoder:
    """The image encoder that MODEL.NAME names, with random weights."""
    keys = cfg.MODEL
    if is_resnet(keys.NAME):
        return CLIPResNetEncoder(create_resnet(keys.NAME, cfg.INPUT.SIZE_TRAIN), keys.GRAD_CHECKPOINT)
    vit = create_vit(keys.NAME, cfg.INPUT.SIZE_TRAIN, keys.STRIDE_SIZE, **_scratch_sizes(cfg))
    cameras = num_cameras if keys.SIE_CAMERA else 0
    return CLIPImageEncoder(vit, cameras, keys.SIE_COE, keys.GRAD_CHECKPOINT, keys.TRIPLET_PENULTIMATE)


def check_model(cfg: CfgNode) -> None:
    """Raise InputError for a MODEL.NAME that cannot be built, or with this stride, before any data are read."""
    name = cfg.MODEL.NAME
    check_name(name, cfg.MODEL.PRETRAIN_CHOICE)
    patch = None if is_resnet(name) else cfg.MODEL.ENCODER.PATCH or patch_size(name)
    if patch:
        check_stride(cfg.MODEL.STRIDE_SIZE, patch)


def _scratch_sizes(cfg: CfgNode) -> dict[str, int]:
    """The sizes of MODEL.ENCODER that are set, by timm's names."""
    sizes = cfg.MODEL.ENCODER
    named = {
        "embed_dim": sizes.WIDTH, "depth": sizes.DEPTH, "num_heads": sizes.HEADS or sizes.WIDTH // 64,
        "patch_size": sizes.PATCH, "num_classes": sizes.EMBED,
    }  # fmt: skip
    return {name: value for name, value in named.items() if value}
