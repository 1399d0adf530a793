"""Values and contradictions of a config, found before data or weights are read."""

import os
import re
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from typing import Any

from yacs.config import CfgNode

from configs.defaults import get_cfg
from configs.errors import ConfigError

_CHOICES = {
    "MODEL.PRETRAIN_CHOICE": ("openai", "timm", "none"),
    "MODEL.MEMORY": ("clip", "text", "none"),
    "MODEL.SSP.VARIANT": ("full", "simple"),
    "MODEL.TEMPORAL": ("TMD", "TAP", "CONV1D", "CONV1D_VIEW", "TRANSF", "TRANSF_CLS"),
    "MODEL.SIE_UNSEEN": ("off", "mean"),
    "INPUT.PIXEL_STATISTICS": ("auto", "keys", "weights"),
    "INPUT.INTERPOLATION": ("bilinear", "bicubic"),
    "INPUT.RE_MODE": ("colour", "pixel"),
    "DATASETS.SPLIT": (*"0123456789", "all"),
    "DATASETS.TRAIN_HALF": ("last", "first"),
    "DATASETS.OUTSIDE": ("refuse", "allow"),
    "DATASETS.ON_BAD_FRAME": ("error", "skip"),
    "SOLVER.SELECT_BY": ("test", "val", "last"),
    "SOLVER.ON_NONFINITE": ("error", "skip"),
    "SOLVER.AMP": ("auto", "bf16", "fp16", "off"),
    "SOLVER.MEMORY_PRECISION": ("tf32", "float32", "bf16", "fp16"),
    "TEST.PRECISION": ("tf32", "float32", "bf16", "fp16"),
    "TEST.SAMPLING": ("dense", "first"),
    "TEST.EVAL_SAMPLING": ("dense", "first"),
    "TEST.NECK_FEAT": ("before", "after"),
    "TEST.AP": ("step", "trapezoid"),
    "TEST.GALLERY_INCLUDES_QUERY": ("auto", "True", "False"),
    "TEST.SAME_CAMERA_FILTER": ("auto", "True", "False"),
}
_LEAST_RATE = 1e-12  # of a learning rate; with less, weights stay as they are
_RANGES = {  # least and most, of each number of a list; the most is far above what an experiment needs
    "MODEL.SIE_COE": (0, 1_000), "MODEL.SSP.LAYERS": (1, 64), "MODEL.STRIDE_SIZE": (1, 1_024),
    "MODEL.ENCODER.WIDTH": (0, 8_192), "MODEL.ENCODER.DEPTH": (0, 256), "MODEL.ENCODER.HEADS": (0, 512),
    "MODEL.ENCODER.PATCH": (0, 1_024), "MODEL.ENCODER.EMBED": (0, 8_192), "MODEL.ENCODER.TEXT_DEPTH": (0, 256),
    "INPUT.SIZE_TRAIN": (1, 4_096), "INPUT.SIZE_TEST": (1, 4_096), "INPUT.SEQ_LEN": (1, 1_024),
    "INPUT.PADDING": (0, 4_095), "INPUT.PROB": (0, 1), "INPUT.RE_PROB": (0, 1), "INPUT.PIXEL_MEAN": (0, 1),
    "INPUT.PIXEL_STD": (0.001, 1), "DATASETS.VAL_FRACTION": (0, 1), "DATALOADER.NUM_WORKERS": (0, 1_024),
    "DATALOADER.NUM_INSTANCE": (2, 4_096), "SOLVER.SEED": (0, 2**64 - 1), "SOLVER.IMS_PER_BATCH": (1, 65_536),
    "SOLVER.MAX_EPOCHS": (1, 1_000_000), "SOLVER.BASE_LR": (_LEAST_RATE, 1e30), "SOLVER.BIAS_LR_FACTOR": (0, 1_000),
    "SOLVER.WEIGHT_DECAY": (0, 100), "SOLVER.WEIGHT_DECAY_BIAS": (0, 100), "SOLVER.MARGIN": (0, 1_000),
    "SOLVER.WARMUP_EPOCHS": (0, 1_000_000), "SOLVER.WARMUP_FACTOR": (0, 1), "SOLVER.GAMMA": (0, 1),
    "SOLVER.ACCUM_STEPS": (1, 65_536), "SOLVER.LOG_PERIOD": (1, 10**9), "SOLVER.EVAL_PERIOD": (1, 10**9),
    "SOLVER.TEXT.MAX_EPOCHS": (1, 1_000_000), "SOLVER.TEXT.BATCH_SIZE": (1, 1_000_000),
    "SOLVER.TEXT.BASE_LR": (_LEAST_RATE, 10), "SOLVER.TEXT.MIN_LR": (0, 10),
    "SOLVER.TEXT.WARMUP_EPOCHS": (0, 1_000_000), "SOLVER.TEXT.WARMUP_LR": (0, 10), "SOLVER.TEXT.WEIGHT_DECAY": (0, 100),
    "TEST.FRAMES_PER_BATCH": (1, 65_536),
    "TEST.RE_RANKING_K1": (1, 10_000), "TEST.RE_RANKING_K2": (1, 10_000), "TEST.RE_RANKING_LAMBDA": (0, 1),
    "TEST.CONTACT_SHEET": (0, 2_000), "SOLVER.SAVE_EVERY_STEPS": (0, 10**9), "DATASETS.BAD_FRAME_LIMIT": (0, 10**9),
    "SOLVER.NONFINITE_LIMIT": (1, 10**9),
}  # fmt: skip
_LOSS_WEIGHT = (0, 1_000)  # the range of every MODEL.*_LOSS_WEIGHT
_MOST_WEIGHTS = 3e9  # the largest CLIP's image encoder has 1.8e9
_MOST_PATCHES = 2**14  # of a frame
_MOST_BATCH_GIB = 16  # of frames, a byte per colour
PATHS = (
    "MODEL.PRETRAIN_PATH", "DATASETS.ROOT_DIR", "DATASETS.EXCLUDE", "DATASETS.PACK", "DATASETS.CACHE_DIR",
    "TEST.WEIGHT", "OUTPUT_DIR",
)  # fmt: skip
_LONGEST_NAME, _LONGEST_PATH = 255, 4_000  # bytes that Linux takes, the second less what a run adds to OUTPUT_DIR
SWITCH_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_FRAME_POSITIONS = 77  # of the temporal transformer TRANSF of Table 5
_CNN_STRIDE = 16  # pixels per position of CLIP's ResNets with the last stride 1


def check_cfg(cfg: CfgNode) -> None:
    """Raise ConfigError at the first value out of range and at the first contradiction between keys."""
    _restore_words(cfg)
    for faults in (_range_faults, _input_faults, _branch_faults, _solver_faults, _cnn_faults, _encoder_faults):
        for fault in faults(cfg):
            raise ConfigError(fault)


def uses_weights_statistics(cfg: CfgNode) -> bool:
    """Whether frames are normalised with the pixel statistics of MODEL.NAME's weights, not with INPUT's keys."""
    choice = cfg.INPUT.PIXEL_STATISTICS
    return cfg.MODEL.PRETRAIN_CHOICE == "timm" if choice == "auto" else choice == "weights"


def accepted_values(key: str) -> str:
    """The words or the range of numbers that `key` takes, for people; empty where it has neither."""
    if key in _CHOICES:
        return ", ".join(f"`{word}`" for word in _CHOICES[key])
    if key in _RANGES or key.endswith("_LOSS_WEIGHT"):
        least, most = _RANGES.get(key, _LOSS_WEIGHT)
        span = " to ".join(f"{number:,}" if isinstance(number, int) else f"{number:g}" for number in (least, most))
        return f"each {span}" if isinstance(_value(get_cfg(), key), list) else span
    return "`True`, `False`" if isinstance(_value(get_cfg(), key), bool) else ""


def _value(cfg: CfgNode, key: str) -> Any:
    return reduce(getitem, key.split("."), cfg)


def _restore_words(cfg: CfgNode) -> None:
    """Give keys with a choice of words back the word that YAML or yacs took for a switch, such as False for `off`."""
    if cfg.SOLVER.AMP.lower() == "false":
        cfg.SOLVER.AMP = "off"
    if cfg.MODEL.SIE_UNSEEN.lower() == "false":
        cfg.MODEL.SIE_UNSEEN = "off"
    for key in ("GALLERY_INCLUDES_QUERY", "SAME_CAMERA_FILTER"):
        cfg.TEST[key] = str(SWITCH_WORDS.get(cfg.TEST[key].lower(), cfg.TEST[key]))


def _range_faults(cfg: CfgNode) -> Iterator[str]:
    """Values outside the range of their own key."""
    for key, allowed in _CHOICES.items():
        if _value(cfg, key) not in allowed:
            yield f"{key} must be one of {', '.join(allowed)}, found '{_value(cfg, key)}'"
    weights = [f"MODEL.{key}" for key in cfg.MODEL if key.endswith("_LOSS_WEIGHT")]
    for key, (least, most) in (_RANGES | dict.fromkeys(weights, _LOSS_WEIGHT)).items():
        value = _value(cfg, key)
        if not all(least <= number <= most for number in (value if isinstance(value, list) else [value])):
            yield f"{key} must lie between {least} and {most}, found {value}"
    items = cfg.DATASETS.TRAIN_ITEMS
    if not re.fullmatch(r"\s*(auto|tracklets|chunks(\s+0*[1-9]\d{0,8})|windows(\s+0*[1-9]\d{0,8}){2})\s*", items):
        words = "auto, tracklets, 'chunks LENGTH' or 'windows LENGTH STEP' (in frames)"
        yield f"DATASETS.TRAIN_ITEMS must be {words}, found '{items}'"
    for key in ("DATASETS.ROOT_DIR", "OUTPUT_DIR"):
        if not _value(cfg, key).strip():
            yield f"{key} is empty; name a folder"
    for key, path in [(key, _value(cfg, key)) for key in PATHS] + [("TEST.DATASETS", p) for p in cfg.TEST.DATASETS]:
        fault = _path_fault(path)
        if fault:
            yield f"{key} {fault}: '{path:.60}'"
    for entry in cfg.TEST.DATASETS:
        name, colon, path = entry.partition(":")
        if not (name.strip() and colon and path.strip()):
            yield f"TEST.DATASETS needs entries like 'MARS:folder', found '{entry}'"
    if cfg.TEST.DATASETS and cfg.DATASETS.SPLIT == "all":
        yield "TEST.DATASETS tests one model, DATASETS.SPLIT all has ten; take a split from 0 to 9"


def _path_fault(path: str) -> str:
    """Why no file can have this path; empty if one can."""
    try:
        coded = os.fsencode(path)
    except UnicodeEncodeError:
        return "holds a character that no file name can have"
    if b"\0" in coded:
        return "holds a null character, which no file name can have"
    if max(map(len, coded.split(b"/"))) > _LONGEST_NAME:
        return f"has a part longer than the {_LONGEST_NAME} bytes of a file name"
    return f"is longer than {_LONGEST_PATH} bytes" if len(coded) > _LONGEST_PATH else ""


def _input_faults(cfg: CfgNode) -> Iterator[str]:
    """Sizes and numbers of channels of the frames, and their augmentation."""
    for key in ("INPUT.SIZE_TRAIN", "INPUT.SIZE_TEST", "MODEL.STRIDE_SIZE"):
        size = _value(cfg, key)
        if len(size) != 2:
            yield f"{key} must be two numbers [vertical, horizontal], found {size}"
    there, here = cfg.INPUT.SIZE_TEST, cfg.INPUT.SIZE_TRAIN
    if there != here:
        yield f"INPUT.SIZE_TEST {there} must equal INPUT.SIZE_TRAIN {here}: the position embeddings have one grid"
    stride = cfg.MODEL.STRIDE_SIZE
    if any(step > side for step, side in zip(stride, here)):
        yield f"MODEL.STRIDE_SIZE {stride} is larger than INPUT.SIZE_TRAIN {here}"
    if here[0] // stride[0] * (here[1] // stride[1]) > _MOST_PATCHES:
        yield f"INPUT.SIZE_TRAIN {here} has more than {_MOST_PATCHES} patches at MODEL.STRIDE_SIZE {stride}"
    if cfg.INPUT.PADDING >= min(here):
        yield f"INPUT.PADDING {cfg.INPUT.PADDING} must be less than the sides of INPUT.SIZE_TRAIN {here}"
    if cfg.INPUT.RE_LEGACY and cfg.INPUT.RE_MODE != "colour":
        yield f"INPUT.RE_LEGACY True belongs to INPUT.RE_MODE colour, found {cfg.INPUT.RE_MODE}; set one of them back"
    for key in ("INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD"):
        if len(_value(cfg, key)) != 3:
            yield f"{key} must be three numbers (red, green, blue), found {_value(cfg, key)}"
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if uses_weights_statistics(cfg) and list(cfg.INPUT[key]) != list(get_cfg().INPUT[key]):
            yield (
                f"INPUT.{key} {cfg.INPUT[key]} is not used: the pixel statistics of the weights are in force; set "
                "INPUT.PIXEL_STATISTICS keys to use it"
            )
    frames, length, clips = cfg.TEST.FRAMES_PER_BATCH, cfg.INPUT.SEQ_LEN, cfg.SOLVER.IMS_PER_BATCH
    if frames < length:
        yield f"TEST.FRAMES_PER_BATCH {frames} must hold a clip of INPUT.SEQ_LEN {length}"
    for keys, in_batch in (
        (f"TEST.FRAMES_PER_BATCH {frames}", frames),
        (f"SOLVER.IMS_PER_BATCH {clips} of INPUT.SEQ_LEN {length}", clips * length),
    ):
        gib = 3 * in_batch * here[0] * here[1] / 2**30
        if gib > _MOST_BATCH_GIB:
            yield f"{keys}: a batch of INPUT.SIZE_TRAIN {here} would have {gib:.0f} GiB of pixels; lower one of them"


def _branch_faults(cfg: CfgNode) -> Iterator[str]:
    """Combinations of CLIP-Memory, SSP and the temporal branch for which there is no model."""
    model, length = cfg.MODEL, cfg.INPUT.SEQ_LEN
    if model.SSP.ENABLED and model.MEMORY == "none":
        yield "MODEL.SSP.ENABLED True needs MODEL.MEMORY clip or text: without a memory SSP has nothing to update"
    for key in ("TMC", "MD"):
        if model.TEMPORAL != "TMD" and not model.TMD[key]:
            yield f"MODEL.TMD.{key} False needs MODEL.TEMPORAL TMD, found {model.TEMPORAL}"
    if not (model.TMD.TMC or model.TMD.MD):
        yield (
            "MODEL.TMD.TMC and MODEL.TMD.MD are both False, which leaves nothing of TMD; the model without it is "
            "MODEL.TEMPORAL TAP"
        )
    if model.TEMPORAL == "TRANSF" and length > _FRAME_POSITIONS:
        yield (
            f"INPUT.SEQ_LEN {length} is too long for MODEL.TEMPORAL TRANSF, which has positions for "
            f"{_FRAME_POSITIONS} frames"
        )


def _solver_faults(cfg: CfgNode) -> Iterator[str]:
    """Batches, learning rates and the choice of the best epoch."""
    clips, tracklets, parts = cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE, cfg.SOLVER.ACCUM_STEPS
    if clips % tracklets:
        yield f"SOLVER.IMS_PER_BATCH {clips} must be divisible by DATALOADER.NUM_INSTANCE {tracklets} (P x K clips)"
    if clips // tracklets < 2:
        yield (
            f"SOLVER.IMS_PER_BATCH {clips} with DATALOADER.NUM_INSTANCE {tracklets} is one identity per batch; "
            "the triplet loss needs two"
        )
    if clips % parts:
        yield f"SOLVER.IMS_PER_BATCH {clips} must be divisible by SOLVER.ACCUM_STEPS {parts} (parts of a batch)"
    if cfg.SOLVER.SELECT_BY == "val" and not cfg.DATASETS.VAL_FRACTION:
        yield "SOLVER.SELECT_BY val needs a DATASETS.VAL_FRACTION above 0"
    text = cfg.SOLVER.TEXT
    if text.MIN_LR > text.BASE_LR:
        yield f"SOLVER.TEXT.MIN_LR {text.MIN_LR} must not be above SOLVER.TEXT.BASE_LR {text.BASE_LR}"
    steps = cfg.SOLVER.STEPS
    if steps != sorted(set(steps)) or (steps and steps[0] < 1):
        yield f"SOLVER.STEPS must be rising epochs from 1 on, found {steps}"


def _cnn_faults(cfg: CfgNode) -> Iterator[str]:
    """Keys of a ViT that are set for a CNN, which has no class token before its pool, no patches and fixed sizes."""
    model, size = cfg.MODEL, cfg.INPUT.SIZE_TRAIN
    if model.NAME != "RN50" and "resnet" not in model.NAME:
        return
    name = f"MODEL.NAME '{model.NAME}'"
    if model.SIE_CAMERA:
        yield f"MODEL.SIE_CAMERA True needs a ViT, {name} has no class token to add it to; set it False"
    if model.TRIPLET_PENULTIMATE:
        yield f"MODEL.TRIPLET_PENULTIMATE True needs a ViT, {name} has no class token before a last block; set it False"
    if cfg.SOLVER.ACCUM_STEPS > 1:
        yield (
            f"SOLVER.ACCUM_STEPS {cfg.SOLVER.ACCUM_STEPS} needs a ViT: the batch statistics of the CNN '{model.NAME}' "
            "would be those of a part of the batch"
        )
    if list(model.STRIDE_SIZE) != list(get_cfg().MODEL.STRIDE_SIZE):
        yield f"MODEL.STRIDE_SIZE {model.STRIDE_SIZE} belongs to a ViT, {name} is a CNN"
    if any(side % _CNN_STRIDE for side in size):
        yield f"INPUT.SIZE_TRAIN {size}: {name} needs multiples of {_CNN_STRIDE} pixels"
    for key, value in model.ENCODER.items():
        if value and key != "TEXT_DEPTH":
            yield f"MODEL.ENCODER.{key} belongs to a ViT, {name} is a CNN"


def _encoder_faults(cfg: CfgNode) -> Iterator[str]:
    """Sizes of an encoder from scratch, and the file of a pretrained one."""
    sizes, from_scratch = cfg.MODEL.ENCODER, cfg.MODEL.PRETRAIN_CHOICE == "none"
    for key, value in sizes.items():
        if value and not from_scratch:
            yield f"MODEL.ENCODER.{key} needs MODEL.PRETRAIN_CHOICE 'none': CLIP's weights have fixed sizes"
    if from_scratch and cfg.MODEL.PRETRAIN_PATH:
        yield "MODEL.PRETRAIN_PATH needs MODEL.PRETRAIN_CHOICE 'openai' or 'timm'; with 'none' no weights are read"
    if cfg.MODEL.MEMORY == "text" and cfg.MODEL.PRETRAIN_CHOICE == "timm":
        yield (
            "MODEL.MEMORY text needs MODEL.PRETRAIN_CHOICE 'openai' or 'none': only OpenAI's text tower can be loaded, "
            "'timm' names weights of others"
        )
    for key in ("WIDTH", "EMBED"):
        if sizes[key] % 64:
            yield f"MODEL.ENCODER.{key} must be a multiple of 64 (SSP and TMD have heads 64 wide)"
    if sizes.WIDTH and sizes.HEADS and sizes.WIDTH % sizes.HEADS:
        yield f"MODEL.ENCODER.HEADS {sizes.HEADS} must divide MODEL.ENCODER.WIDTH {sizes.WIDTH}"
    # Sizes that are not set count as those of ViT-L-14: the bound is for what no machine holds.
    width, depth, embed = sizes.WIDTH or 1024, sizes.DEPTH or 24, sizes.EMBED or 768
    text_depth = sizes.TEXT_DEPTH if cfg.MODEL.MEMORY == "text" else 0
    weights = 12 * width**2 * depth + (16 * cfg.MODEL.SSP.LAYERS + 12 * text_depth) * embed**2
    if weights > _MOST_WEIGHTS:
        yield (
            f"MODEL.ENCODER {dict(sizes)} with MODEL.SSP.LAYERS {cfg.MODEL.SSP.LAYERS} has about {weights / 1e9:.0f} "
            f"billion weights; the most is {_MOST_WEIGHTS / 1e9:.0f} billion"
        )
    if sizes.PATCH and min(cfg.INPUT.SIZE_TRAIN) < sizes.PATCH:
        yield f"INPUT.SIZE_TRAIN {cfg.INPUT.SIZE_TRAIN} is smaller than a patch of {sizes.PATCH} pixels"
