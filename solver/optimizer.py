"""Parameter groups from a table of learning-rate factors."""

import logging
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
    trainable parameter: a renamed module would lose its learning rate without a word.
    """
    idle = set(lr_scale)
    members = defaultdict(list)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        hits = [pattern for pattern in lr_scale if re.search(pattern, name)]
        idle -= set(hits)
        lr = base_lr
        for pattern in hits:
            lr *= lr_scale[pattern]
        members[lr, weight_decay_bias if "bias" in name else weight_decay].append(parameter)
    if idle:
        raise ValueError(f"learning-rate patterns match no parameter: {sorted(idle)}")
    groups = [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in members.items()]
    logger.info("optimizer: %s", "; ".join(f"{len(g['params'])} tensors at lr {g['lr']:.3g}" for g in groups))
    return groups
