"""Config and counts -> TFCLIP."""

from yacs.config import CfgNode

from model.encoder import CLIPImageEncoder, check_name, create_vit
from model.sequence_prompt import SequenceSpecificPrompt
from model.temporal_memory import TemporalMemoryDiffusion
from model.tfclip import TFCLIP
from model.weights import load_pretrained


def build_model(cfg: CfgNode, num_classes: int, num_cameras: int, pretrained: bool = True) -> TFCLIP:
    """TF-CLIP on the CPU for `num_classes` training identities and `num_cameras` cameras.

    With `pretrained` and MODEL.PRETRAIN_CHOICE 'openai' the encoder holds CLIP's weights; evaluation and resuming pass
    False, since another file fills the model. Raises InputError for an unknown MODEL.NAME or weights that do not fit.
    """
    check_model(cfg)
    vit = create_vit(cfg.MODEL.NAME, cfg.INPUT.SIZE_TRAIN, cfg.MODEL.STRIDE_SIZE, **_scratch_sizes(cfg))
    encoder = CLIPImageEncoder(vit, num_cameras if cfg.MODEL.SIE_CAMERA else 0, cfg.MODEL.SIE_COE)
    model = TFCLIP(
        encoder,
        SequenceSpecificPrompt(encoder.embed_width, cfg.MODEL.SSP.VARIANT, cfg.MODEL.SSP.LAYERS),
        TemporalMemoryDiffusion(encoder.width),
        num_classes,
        cfg.TEST.NECK_FEAT,
    )
    if pretrained and cfg.MODEL.PRETRAIN_CHOICE == "openai":
        load_pretrained(model, cfg.MODEL.NAME, cfg.MODEL.PRETRAIN_PATH)
    return model


def check_model(cfg: CfgNode) -> None:
    """Raise InputError for a MODEL.NAME that cannot be built, before any data are read."""
    check_name(cfg.MODEL.NAME, openai_weights=cfg.MODEL.PRETRAIN_CHOICE == "openai")


def _scratch_sizes(cfg: CfgNode) -> dict[str, int]:
    """timm's names for the sizes of MODEL.ENCODER that are set."""
    sizes = cfg.MODEL.ENCODER
    heads = sizes.HEADS or sizes.WIDTH // 64
    named = {
        "embed_dim": sizes.WIDTH,
        "depth": sizes.DEPTH,
        "num_heads": heads,
        "patch_size": sizes.PATCH,
        "num_classes": sizes.EMBED,
    }
    return {name: value for name, value in named.items() if value}
