"""Parameter groups from a table of learning-rate factors."""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping

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
