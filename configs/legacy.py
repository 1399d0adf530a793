"""Keys of the original release and of its ancestor CLIP-ReID, and what became of them here."""

import re
from collections.abc import Collection, Mapping
from typing import Any

_REMOVED_SINGLE_STAGE = (
    "there is one training stage here; drop the key (prompts of the text baseline, MODEL.MEMORY text: SOLVER.TEXT)"
)

RENAMED = {
    "MODEL.I2T_LOSS_WEIGHT": "MODEL.V2M_LOSS_WEIGHT",
    "SOLVER.WARMUP_ITERS": "SOLVER.WARMUP_EPOCHS",
    "SOLVER.STAGE2.WARMUP_ITERS": "SOLVER.WARMUP_EPOCHS",
    "SOLVER.LARGE_Prompt_LR": "SOLVER.LARGE_PROMPT_LR",
    "SOLVER.STAGE2.LARGE_Prompt_LR": "SOLVER.LARGE_PROMPT_LR",
    "TEST.IMS_PER_BATCH": "TEST.FRAMES_PER_BATCH",
}

REMOVED = {
    "MODEL.DEVICE": "the GPU is used when there is one; CUDA_VISIBLE_DEVICES chooses it",
    "MODEL.DEVICE_ID": "choose the GPU with CUDA_VISIBLE_DEVICES",
    "MODEL.DIST_TRAIN": "torchrun --nproc_per_node N train-main.py trains on N GPUs (docs/cluster.md)",
    "MODEL.LAST_STRIDE": "the last stride of RN50 is always 1",
    "MODEL.NECK": "the BNNeck is always there",
    "MODEL.METRIC_LOSS_TYPE": "the triplet loss is always on; MODEL.TRIPLET_LOSS_WEIGHT 0 removes it",
    "MODEL.IF_WITH_CENTER": "there is no centre loss",
    "MODEL.SIE_VIEW": "the video data sets have no view labels",
    "MODEL.NO_MARGIN": "set SOLVER.MARGIN",
    "DATASETS.SAMPLING_STEP": "DATASETS.TRAIN_ITEMS cuts tracklets into training items ('chunks 48', or 'tracklets')",
    "DATALOADER.SAMPLER": "batches are always P x K",
    "SOLVER.OPTIMIZER_NAME": "the optimiser is Adam",
    "SOLVER.WARMUP_METHOD": "the warm-up is linear",
    "SOLVER.CHECKPOINT_PERIOD": "last.pth is written after every epoch",
    "SOLVER.MOMENTUM": "the optimiser is Adam",
    "SOLVER.COSINE_SCALE": "the classifiers are linear",
    "SOLVER.COSINE_MARGIN": "the classifiers are linear",
    "SOLVER.CENTER_LR": "there is no centre loss",
    "SOLVER.CENTER_LOSS_WEIGHT": "there is no centre loss",
    "TEST.DIST_MAT": "set TEST.SAVE_FEATURES or TEST.SAVE_RANKS",
    "TEST.EVAL": "eval-main.py evaluates, train-main.py trains",
}


def in_todays_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config file, those of an earlier version of this project in today's names.

    DATASETS.SAMPLING_STEP cut the training tracklets of LS-VID, and every run's config.yml held it.
    """
    step = str(keys.get("DATASETS.SAMPLING_STEP"))
    if not step.isdecimal() or "DATASETS.NAMES" not in keys:
        return dict(keys)
    is_cut = re.sub("[^A-Z]", "", str(keys["DATASETS.NAMES"]).upper()) == "LSVID" and int(step)
    items = {"DATASETS.TRAIN_ITEMS": f"chunks {int(step)}" if is_cut else "tracklets"}
    return items | {key: value for key, value in keys.items() if key != "DATASETS.SAMPLING_STEP"}


def advice(key: str, known: Collection[str]) -> str | None:
    """What to do about a key of the release that is not a key here, or None when the name is unknown there too."""
    if key in RENAMED:
        return f"it is called {RENAMED[key]} here"
    if key.startswith("SOLVER.STAGE1."):
        return _REMOVED_SINGLE_STAGE
    plain = key.replace("SOLVER.STAGE2.", "SOLVER.", 1)
    if plain in REMOVED:
        return f"it is gone: {REMOVED[plain]}"
    if plain in known:
        return f"it is called {plain} here"
    return None
