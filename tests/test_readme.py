"""What the README names exists: files, commands, make targets, keys and their options."""

import importlib.util
import re
from pathlib import Path

import pytest

from configs import get_cfg, load_cfg
from configs.load import flatten

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# docs/extending.md names what is still to be added; tests/test_extending.py adds it.
PAGES = sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "extending.md"})
DOCS = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
LEAVES = dict(flatten(get_cfg()))
SECTIONS = {leaf[:end] for leaf in LEAVES for end, letter in enumerate(leaf) if letter == "."}


def test_every_key_is_a_key():
    named = set(re.findall(r"\b(?:MODEL|INPUT|DATASETS|DATALOADER|SOLVER|TEST)\.[A-Z0-9_.]*[A-Z0-9]", README + DOCS))
    assert len(named) > 15 and sorted(named - set(LEAVES) - SECTIONS) == []


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README + DOCS


def test_keys_with_values_load():
    values = r"`((?:MODEL|INPUT|SOLVER|TEST)\.[A-Z0-9_.]*[A-Z0-9]) ([A-Za-z0-9]+)`"
    pairs = re.findall(values, README)
    assert len(pairs) >= 6
    for key, value in pairs:
        before = LEAVES[key]
        after = dict(flatten(load_cfg(opts=[key, value])))[key]
        assert after != before or str(before).lower() == value.lower(), key


@pytest.mark.parametrize(
    "pattern", [r"`((?:[a-z0-9_]+/)+[a-z0-9_]+\.(?:py|yml))`", r"python ([a-z]+-main\.py)", r"--config_file ([\w./-]+)"]
)
def test_every_file_is_there(pattern):
    names = set(re.findall(pattern, README + DOCS))
    made_by_a_run = {"runs/mars/config.yml"}
    assert names and [name for name in names - made_by_a_run if not (ROOT / name).exists()] == []


def test_every_module_command_is_there():
    names = set(re.findall(r"python -m ([a-z_.]+[a-z_])", README))
    assert names and all(importlib.util.find_spec(name) for name in names)


def test_every_make_target_is_there():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)?)\b", README))
    assert targets == {"demo", "test", "test-slow", "test-all", "fuzz", "gpu-check"}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_ci_calls_the_test_commands_of_the_readme():
    assert re.findall(r"^make (.+)$", (ROOT / ".ci" / "run").read_text(), re.M) == ["test", "test-slow"]
