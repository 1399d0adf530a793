"""How two configs differ."""

from typing import Any

import yaml
from yacs.config import CfgNode

from configs.load import flatten


def changed_keys(old_text: str, cfg: CfgNode) -> dict[str, tuple[Any, Any]]:
    """{key: (value in `old_text`, a cfg.dump(), value in `cfg`)} of all keys that differ; None: the key is absent."""
    old, new = dict(flatten(yaml.safe_load(old_text))), dict(flatten(cfg))
    return {key: (old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)}
