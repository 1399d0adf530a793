"""Parameter groups from a table of learning-rate factors."""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import nn

logger = logging.getLogger(__name__)


def parameter_groups(
    model: nn.Module, base_lr: float, lr_scale: Mapping[str, float], weight_decay: float, weight_decay_bias: float
) -> list[dict]:
    """Groups of equal settings for torch optimisers; frozen parameters stay out.

    `lr_scale` maps patterns (re.search on the parameter's name) to factors; the factors of all patterns that match
    multiply. Parameters with 'bias' in their name get `weight_decay_bias`. Raises ValueError when a pattern matches no
    trainable parameter: a renamed module would silently lose its learning rate.
    """
    unmatched = set(lr_scale)
    members = defaultdict(list)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        hits = [pattern for pattern in lr_scale if re.search(pattern, name)]
        unmatched -= set(hits)
        lr = math.prod((lr_scale[pattern] for pattern in hits), start=base_lr)
        members[lr, weight_decay_bias if "bias" in name else weight_decay].append(parameter)
    if unmatched:
        raise ValueError(f"learning-rate patterns match no parameter: {sorted(unmatched)}")
    groups = [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in members.items()]
    logger.info("optimizer: %s", "; ".join(f"{len(g['params'])} tensors at lr {g['lr']:.3g}" for g in groups))
    return groups


def group_names(model: nn.Module, groups: Sequence[Mapping]) -> list[str]:
    """What each group of an optimiser of the model holds: 'encoder_biases', or 'classifier_t-ssp-tmd_weights'.

    A group of the model's first part is called after it alone: it holds all that has no learning rate of its own.
    """
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    first = next(iter(name_of.values())).split(".")[0]
    found = []
    for group in groups:
        names = [name_of[parameter] for parameter in group["params"]]
        parts = sorted({name.split(".")[0] for name in names})
        biases = sum("bias" in name for name in names)
        kind = "biases" if biases == len(names) else "weights-biases" if biases else "weights"
        found.append(f"{first if first in parts else '-'.join(parts)}_{kind}")
    return found
