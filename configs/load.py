"""YAML file and command-line options -> a checked, frozen config."""

import ast
import difflib
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from configs.check import PATHS, SWITCH_WORDS, check_cfg
from configs.defaults import get_cfg
from configs.errors import ConfigError
from configs.legacy import advice, in_todays_keys
from utils.errors import file_fault

_QUOTES = "a value of several words needs quotes, such as DATASETS.TRAIN_ITEMS 'windows 8 4'"
_LARGEST_INT = 2**64 - 1  # what torch takes as a seed
_MOST_BYTES, _MOST_NODES, _MOST_DEPTH = 2**18, 10_000, 20  # of a YAML file; a config has about 100 nodes in 4 levels


def load_cfg(path: str | Path | Sequence[str | Path] | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """Merge the defaults, the YAML files `path` and `opts` (KEY VALUE KEY VALUE ...), check the result and freeze it.

    A later file overrides an earlier one, `opts` override all files. Raises ConfigError, which names the key or file at
    fault and the accepted values.
    """
    paths = [] if path is None else [path] if isinstance(path, (str, Path)) else path
    return _merge({str(file): _read_yaml(Path(file)) for file in paths}, opts)


def load_dumped_cfg(text: str, source: str, opts: Sequence[str] = ()) -> CfgNode:
    """`load_cfg` of the config that a run has dumped into its checkpoint; `source` names that file in errors."""
    return _merge({source: _parse_tree(text.encode(), source)}, opts)


def check_opts(opts: Sequence[str]) -> None:
    """Raise ConfigError for an unknown key or an impossible value, before the config that `opts` belong to is read."""
    _merge_unchecked({}, opts)


def _merge(trees: Mapping[str, dict[str, Any]], opts: Sequence[str]) -> CfgNode:
    """The defaults, then each tree of sections, named by its source, then the pairs of the command line."""
    cfg = _merge_unchecked(trees, opts)
    check_cfg(cfg)
    cfg.freeze()
    return cfg


def _merge_unchecked(trees: Mapping[str, dict[str, Any]], opts: Sequence[str]) -> CfgNode:
    cfg = get_cfg()
    leaves = dict(flatten(cfg))
    files = {source: in_todays_keys(dict(flatten(tree))) for source, tree in trees.items()}
    settings = [(key, value, file) for file, keys in files.items() for key, value in keys.items()]
    settings += [(key, value, "command line") for key, value in _pairs(opts)]
    for key, value, source in settings:
        if key not in leaves:
            raise ConfigError(f"{source}: {_unknown_key(key, value, leaves)}")
        *sections, leaf = key.split(".")
        coerced = _coerce(key, value, leaves[key], source)
        reduce(getitem, sections, cfg)[leaf] = os.path.expanduser(coerced) if key in PATHS else coerced
    return cfg


def resolve_auto(value: str, automatic: bool) -> bool:
    """The switch that 'auto', 'True' or 'False' stands for; 'auto' gives `automatic`."""
    return {"auto": automatic, "True": True, "False": False}[value]


def file_keys(path: str | Path) -> list[str]:
    """The dotted keys that a config file sets; raises ConfigError for a file that cannot be read."""
    return [key for key, _ in flatten(_read_yaml(Path(path)))]


def _read_yaml(path: Path) -> dict[str, Any]:
    if fault := file_fault(path):
        raise ConfigError(f"config file {path} {fault}")
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read ({error.strerror})") from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"config file {path} has more than {_MOST_BYTES:,} bytes, so it is no config")
    return _parse_tree(content, str(path))


def _parse_tree(content: bytes, source: str) -> dict[str, Any]:
    """The sections of a YAML text, their values as text; `source` names it in errors."""
    try:
        # BaseLoader keeps every value as text, to be read as on the command line; YAML would make 1.10 a number.
        tree = parse_yaml(content.decode("utf-8"), yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not text"
        raise ConfigError(f"{source}{where}: not valid YAML ({problem})") from None
    if not tree:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: expected sections such as MODEL:, found {type(tree).__name__}")
    return tree


def parse_yaml(text: str, loader: type) -> Any:
    """What `loader`, a class of yaml's, makes of a text.

    Raises yaml.YAMLError also for a key that comes twice and for what no config has: deep nesting, or aliases that
    stand for very much.
    """
    source = loader(text)
    try:
        node = source.get_single_node()
        _check_nodes(node)
        return None if node is None else source.construct_document(node)
    except RecursionError:
        raise yaml.MarkedYAMLError(problem="nested too deeply") from None
    finally:
        source.dispose()


def _check_nodes(root: yaml.Node | None) -> None:
    """Raise yaml.MarkedYAMLError for a key that comes twice, and for more depth or nodes than a config has."""
    todo, count = [(root, 0)] if root else [], 0
    while todo:
        node, depth = todo.pop()
        count += 1
        if count > _MOST_NODES or depth > _MOST_DEPTH:
            raise yaml.MarkedYAMLError(
                problem="more values than any config has" if count > _MOST_NODES else "nested too deeply",
                problem_mark=node.start_mark,
            )
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            names: set[str] = set()
            for key in (key for key, _ in parts if isinstance(key, yaml.ScalarNode)):
                if key.value in names:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} comes twice", problem_mark=key.start_mark)
                names.add(key.value)
            parts = [part for pair in parts for part in pair]
        todo += [(part, depth + 1) for part in parts]


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested sections."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def _pairs(opts: Sequence[str]) -> list[tuple[str, str]]:
    if len(opts) % 2:
        raise ConfigError(f"command line: options come in pairs KEY VALUE, '{opts[-1]}' has no partner; {_QUOTES}")
    return [(str(key), str(value)) for key, value in zip(opts[::2], opts[1::2])]


def _unknown_key(key: str, value: Any, leaves: dict[str, Any]) -> str:
    if any(leaf.startswith(f"{key}.") for leaf in leaves):
        found = repr(value) if value else "nothing"
        return f"{key} is a section with keys of its own, found {found} in its place"
    hint = advice(key, leaves) if key[:1].isalpha() else _QUOTES
    if hint is None:
        by_upper_case = {leaf.upper(): leaf for leaf in leaves}
        near = difflib.get_close_matches(key.upper(), by_upper_case, n=1, cutoff=0.6)
        hint = f"did you mean {by_upper_case[near[0]]}?" if near else "see configs/defaults.py for all keys"
    return f"unknown key {key}: {hint}"


def _coerce(key: str, value: Any, default: Any, source: str) -> Any:
    """`value`, text or a list of texts, in the type of `default`."""
    literal = _literal(value)
    if isinstance(default, str):  # ('MARS') is text with brackets and quotes, 2024 is text without any
        coerced = next((text for text in (literal, value) if isinstance(text, str)), None)
    elif isinstance(default, bool):
        coerced = SWITCH_WORDS.get(str(literal).lower())
    elif isinstance(default, (int, float)):
        coerced = _as_number(literal, type(default))
    elif not default:
        coerced = _as_texts(literal)
    else:
        coerced = _as_list(literal, default)
    if coerced is None:
        kind = {str: "text", bool: "True or False", int: "a whole number", float: "a finite number"}.get(type(default))
        kind = kind or (f"a list like {default}" if default else "a list of texts")
        raise ConfigError(f"{source}: {key} must be {kind}, found {value!r}")
    return coerced


def _literal(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's grammar, about a backslash in a Windows path
            return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _as_number(value: Any, kind: type) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if (isinstance(value, int) and abs(value) > _LARGEST_INT) or not math.isfinite(value):
        return None
    return kind(value) if kind is float or float(value).is_integer() else None


def _as_list(value: Any, default: list) -> list | None:
    element = type(default[0])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [value] * (len(default) if len(default) == 2 else 1)
    if not isinstance(value, (list, tuple)):
        return None
    numbers = [_as_number(_literal(item), element) for item in value]
    return None if None in numbers else numbers


def _as_texts(value: Any) -> list[str] | None:
    """A list of texts; text without quotes, as in [MARS:/a, LS-VID:/b], is split at each comma before a NAME:."""
    items = value
    if isinstance(value, str) and value:
        items = [item.strip() for item in re.split(r",\s*(?=[A-Za-z][\w-]*:)", value.strip().strip("[]()"))]
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        return [] if items == "" else None
    return [str(_literal(item)) for item in items]
