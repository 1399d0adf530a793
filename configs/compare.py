"""How two configs differ."""

from typing import Any

import yaml
from yacs.config import CfgNode

from configs.defaults import get_cfg
from configs.legacy import in_todays_keys
from configs.load import flatten, parse_yaml


def changed_keys(old_text: str, cfg: CfgNode) -> dict[str, tuple[Any, Any]]:
    """{key: (old value, value in `cfg`)} of all keys that differ; `old_text` is the cfg.dump() of an earlier run.

    A key that the text lacks had its default value; the value of a key that no longer exists is None. Raises ValueError
    when the text is no config.
    """
    try:
        tree = parse_yaml(old_text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"not a config: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError("not a config: it has no sections")
    old, new = dict(flatten(get_cfg())) | in_todays_keys(dict(flatten(tree))), dict(flatten(cfg))
    return {key: (old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)}
