"""Tables from the names of weights in CLIP's and in published TF-CLIP files to the names of this project.

CLIP: openai/CLIP, and open_clip with the same names; timm translates its ResNets. Published: the public release (SSP.*,
TMD.*) and the authors' packages (prompts_generator.*, SAT.*). In a target, <tower> stands for the rest of
the name in _CLIP_TOWER, <block> in _BLOCK.
"""

import re
from collections.abc import Iterable

from timm.models.byobnet import ByobNet, checkpoint_filter_fn
from torch import Tensor

DROP = ""  # the target of a weight that exists in files only

TOWERS = {"vit": "a CLIP ViT", "cnn": "a CLIP ResNet"}  # kinds of image tower
_KIND_SIGNS = {  # how names begin that only one kind of file has
    "published": "image_encoder.",
    "openai": "visual.",
    "checkpoint": ("encoder.vit.", "encoder.cnn."),
}
_TIMM_NAMES = (  # some of timm's names of a CLIP ViT, of a CLIP ResNet
    {"blocks.0.attn.qkv.weight", "norm_pre.weight"},
    {"stem.conv1.conv.weight", "head.pos_embed"},
)
_TOWER_SIGNS = {  # how names of each begin: CLIP's, published, timm's, this project's
    "vit": ("visual.class_embedding", "visual.transformer.", "image_encoder.transformer.", "blocks.", "encoder.vit."),
    "cnn": ("visual.layer", "visual.attnpool.", "image_encoder.layer", "stages.", "encoder.cnn."),
}

# The image tower of OpenAI's CLIP; published files hold the same names behind image_encoder.
_CLIP_TOWER = [
    (r"class_embedding", "encoder.vit.cls_token"),
    (r"positional_embedding", "encoder.vit.pos_embed"),
    (r"proj", "encoder.vit.head.weight"),
    (r"conv1\.weight", "encoder.vit.patch_embed.proj.weight"),
    (r"ln_pre\.(weight|bias)", r"encoder.vit.norm_pre.\1"),
    (r"ln_post\.(weight|bias)", r"encoder.vit.norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.(.+)", r"encoder.vit.blocks.\1.<block>\2"),
]
_BLOCK = {
    "ln_1": "norm1", "ln_2": "norm2", "attn.in_proj_": "attn.qkv.", "attn.out_proj": "attn.proj",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip

# The release and the authors' packages call the same modules by other names.
_PUBLISHED_MODULES = [
    (r"(SSP|prompts_generator)\.decoder\.", "ssp.layers."),
    (r"(SSP|prompts_generator)\.(?!layers\.)", "ssp."),
    (r"(TMD|SAT)\.resblocks\.0\.", "tmd."),
]
_PUBLISHED = [
    (r"cv_embed", "encoder.camera_embed"),
    (r"image_encoder\.(.+)", r"<tower>\1"),
    (r"classifier2\.weight", "classifier_g.weight"),
    (r"classifier_proj\.weight", "classifier_p.weight"),
    (r"classifier_proj_temp\.weight", "classifier_t.weight"),
    (r"classifier_proj_temp2\.weight", DROP),
    (r"bottleneck\.(.+)", r"neck_g.\1"),
    (r"bottleneck_proj\.(.+)", r"neck_p.\1"),
    (r"bottleneck_proj_temp\.(.+)", r"neck_f.\1"),
    (r"bottleneck_proj_temp2\.(.+)", r"neck_t.\1"),
    (r"tmd\.message_fc\.(.+)", r"tmd.construction.fc.\1"),
    (r"tmd\.message_ln\.(.+)", r"tmd.construction.norm.\1"),
    (r"tmd\.message_(attn\..+)", r"tmd.construction.<block>\1"),
    (r"tmd\.(.+)", r"tmd.diffusion.<block>\1"),
    (r"ssp\.alpha", DROP),
    (r"ssp\.(layers\.\d+)\.((?:self|cross)_attn\.[qkv]_proj\.weight)", r"ssp.\1.\2"),
    (r"ssp\.(layers\.\d+)\.((?:self|cross)_attn)\.proj\.(.+)", r"ssp.\1.\2.out_proj.\3"),
    (r"ssp\.(layers\.\d+)\.(mlp\..+)", r"ssp.\1.\2"),
    (r"ssp\.(layers\.\d+)\.norm3\.(.+)", r"ssp.\1.mlp_norm.\2"),
]
_PUBLISHED_FULL = [
    # In these files `memory_proj` acts on the visual context and `text_proj` on the memory.
    (r"ssp\.memory_proj\.(.+)", r"ssp.context_proj.\1"),
    (r"ssp\.text_proj\.(.+)", r"ssp.memory_proj.\1"),
    (r"ssp\.out_proj\.(.+)", r"ssp.out_proj.\1"),
    (r"ssp\.norm\.(.+)", DROP),
    (r"ssp\.(layers\.\d+)\.norm1\.(.+)", r"ssp.\1.self_norm.\2"),
    (r"ssp\.(layers\.\d+)\.norm2\.(.+)", r"ssp.\1.cross_norm.\2"),
]
_PUBLISHED_SIMPLE = [
    (r"ssp\.norm\.(.+)", r"ssp.context_norm.\1"),
    (r"ssp\.(layers\.\d+)\.norm1\.(.+)", r"ssp.\1.cross_norm.\2"),
]


def kind_of(names: Iterable[str]) -> str | None:
    """The kind of a file with these names: 'published', 'openai', 'timm' or 'checkpoint'; None for any other."""
    names = set(names)
    for kind, start in _KIND_SIGNS.items():
        if any(name.startswith(start) for name in names):
            return kind
    return "timm" if any(needed <= names for needed in _TIMM_NAMES) else None


def tower_of(names: Iterable[str]) -> str | None:
    """The kind of image tower, 'vit' or 'cnn', in a file with these names; None if they do not say."""
    names = list(names)
    found = [tower for tower, signs in _TOWER_SIGNS.items() if any(name.startswith(signs) for name in names)]
    return found[0] if len(found) == 1 else None


def published_names(names: Iterable[str]) -> dict[str, str | None]:
    """{published name: ours, DROP, or None for an unknown name}."""
    names = list(names)
    full = any(".text_proj." in name for name in names)
    table = _PUBLISHED + (_PUBLISHED_FULL if full else _PUBLISHED_SIMPLE)
    translated = {}
    for name in names:
        ours = re.sub(r"^(ssp|tmd)\.", "-", name)  # our own names are none of a published file
        for pattern, module in _PUBLISHED_MODULES:
            ours = re.sub(f"^{pattern}", module, ours)
        translated[name] = _translate(ours, table)
    return translated


def clip_names(names: Iterable[str]) -> dict[str, str | None]:
    """{name in a CLIP with a ViT: ours, DROP for the text tower, or None for a part of another image tower}."""
    tower = "visual."
    return {n: _translate(n.removeprefix(tower), _CLIP_TOWER) if n.startswith(tower) else DROP for n in names}


def clip_resnet_names(names: Iterable[str], cnn: ByobNet) -> dict[str, str | None]:
    """{name in a CLIP with a ResNet: ours, DROP for the text tower, or None for a part of another image tower}.

    timm's own conversion looks at names only, so it is given each name as its own value.
    """
    names = list(names)
    timm_name = {theirs: name for name, theirs in checkpoint_filter_fn({n: n for n in names}, cnn).items()}
    ours = {name: f"encoder.cnn.{timm_name[name]}" if name in timm_name else DROP for name in names}
    return {name: None if ".visual." in target else target for name, target in ours.items()}


def timm_names(names: Iterable[str], tower: str) -> dict[str, str | None]:
    """{timm name: ours}; timm gives a ViT's projection a bias that CLIP does not have."""
    return {name: DROP if name == "head.bias" else f"encoder.{tower}.{name}" for name in names}


def to_our_shape(our_name: str, value: Tensor, from_timm: bool) -> Tensor:
    """`value` in our shape: CLIP has the projection as (D, E), the class token as (D,) and positions as (N, D)."""
    if from_timm:
        return value
    if our_name == "encoder.vit.head.weight":
        return value.T if value.dim() == 2 else value
    if our_name == "encoder.vit.cls_token":
        return value.reshape(1, 1, -1)
    if our_name == "encoder.vit.pos_embed":
        return value.unsqueeze(0)
    return value


def _translate(name: str, table: list[tuple[str, str]]) -> str | None:
    for pattern, target in table:
        match = re.fullmatch(pattern, name)
        if not match:
            continue
        ours = match.expand(target)
        if ours.startswith("<tower>"):
            return _translate(ours.removeprefix("<tower>"), _CLIP_TOWER)
        stem, marker, rest = ours.partition("<block>")
        return stem + _block_name(rest) if marker else ours
    return None


def _block_name(name: str) -> str:
    for theirs, ours in _BLOCK.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
