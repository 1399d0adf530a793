"""The house: who imports whom, who sees the config, every key is read, every public name is explained."""

import ast
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from configs import get_cfg
from configs.load import flatten

ROOT = Path(__file__).parent.parent
LEVEL = {"configs": 0, "utils": 0, "datasets": 1, "model": 1, "solver": 1, "loss": 2, "processor": 3}
SCRIPTS = ("train-main.py", "eval-main.py")
# Command modules: they parse an argv of their own, so they may see the config.
COMMANDS = {f"processor/{name}.py" for name in ("run", "evaluation/session", "cli", "colour_baseline")}
COMMANDS |= {f"processor/{name}/command.py" for name in ("ablation", "benchmark")}
COMMANDS |= {"datasets/check/command.py", "datasets/command.py", "datasets/pack.py"}
TOP_LEVEL = {
    *LEVEL, *SCRIPTS, "tests", "docs", ".ci", "requirements.txt", "README.md", "LICENSE", "Makefile", "pyproject.toml",
}  # fmt: skip
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def sources() -> dict[str, ast.Module]:
    """Path from the root -> syntax tree, of all rooms and both scripts."""
    paths = [path for room in LEVEL for path in sorted((ROOT / room).rglob("*.py"))]
    paths += [ROOT / script for script in SCRIPTS]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def imported_modules(tree: ast.Module, room: str) -> Iterator[str]:
    """Dotted names of all imports, those inside functions too; a relative import stays in its room."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{room}.{node.module}" if node.level else node.module


def import_faults(path: str, tree: ast.Module) -> list[str]:
    """Imports of `path` that do not run leftward."""
    room = path.split("/")[0]
    level = LEVEL.get(room, 4)
    ours = {module.split(".")[0] for module in imported_modules(tree, room)} & {*LEVEL, "tests"}
    return [f"{path} imports {other}" for other in sorted(ours - {room}) if LEVEL.get(other, 9) >= level]


def sees_cfg(tree: ast.Module) -> bool:
    """Whether the code (not its comments or texts) names cfg, CfgNode, yacs or the room configs."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, (ast.arg, ast.keyword))}
    names |= {part for module in imported_modules(tree, "") for part in module.split(".")}
    return bool(names & {"cfg", "CfgNode", "yacs", "configs"})


def chain(node: ast.expr) -> tuple[str, ...]:
    """("setting", "cfg", "SOLVER", "SEED") of setting.cfg.SOLVER.SEED; empty when it does not start at a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()


def read_keys(tree: ast.Module) -> set[str]:
    """Dotted prefixes read from a name or attribute `cfg`, also through `sizes = cfg.MODEL.ENCODER` in one function."""
    found = set()
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))]:
        nodes = list(ast.walk(scope))
        alias = {
            node.targets[0].id: chain(node.value)
            for node in nodes
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and "cfg" in chain(node.value)
        }
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names = chain(node)
                if scope is not tree and names and names[0] in alias:
                    names = alias[names[0]] + names[1:]
                if "cfg" in names:
                    found.add(".".join(names[names.index("cfg") + 1 :]))
    return found


def unread(keys: Iterable[str], trees: Iterable[ast.Module]) -> list[str]:
    """Keys that no tree reads."""
    read = set().union(*(read_keys(tree) for tree in trees))
    return [key for key in keys if key not in read]


def unexplained(path: str, tree: ast.Module) -> list[str]:
    """The module and its public functions and classes that have no docstring; an `__init__.py` needs none."""
    faults = [] if path.endswith("__init__.py") or ast.get_docstring(tree) else [path]
    for node in tree.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            faults += [] if ast.get_docstring(node) else [f"{path}:{node.name}"]
    return faults


def test_imports_run_only_leftward():
    faults = [fault for path, tree in sources().items() for fault in import_faults(path, tree)]
    assert faults == []


@pytest.mark.parametrize(
    ("path", "code", "faults"),
    [
        ("configs/a.py", "from utils.errors import InputError", ["configs/a.py imports utils"]),
        ("model/a.py", "def f():\n    import datasets.build", ["model/a.py imports datasets"]),
        ("loss/a.py", "from model.output import X\nfrom loss.triplet import Y\nimport utils", []),
        ("utils/a.py", "from . import errors", []),
        ("loss/a.py", "import processor", ["loss/a.py imports processor"]),
        ("train-main.py", "from processor.run import train_main", []),
        ("processor/a.py", "from tests.conftest import SHARED", ["processor/a.py imports tests"]),
    ],
)
def test_the_import_rule_finds_a_fault_and_only_a_fault(path, code, faults):
    assert import_faults(path, ast.parse(code)) == faults


def test_entry_scripts_import_the_processor_alone():
    trees = sources()
    for script in SCRIPTS:
        assert {m.split(".")[0] for m in imported_modules(trees[script], "")} & {*LEVEL, "tests"} == {"processor"}


def test_only_builders_and_commands_see_the_config():
    seen = {path for path, tree in sources().items() if sees_cfg(tree) and not path.startswith("configs/")}
    allowed = {f"{room}/build.py" for room in LEVEL} | COMMANDS
    assert seen - allowed == set()
    assert {"datasets/build.py", "model/build.py", "loss/build.py", "solver/build.py", "processor/run.py"} <= seen


def test_every_key_is_read_outside_configs():
    trees = [tree for path, tree in sources().items() if not path.startswith("configs/")]
    keys = [key for key, _ in flatten(get_cfg())]
    assert unread([*keys, "SOLVER.INVENTED"], trees) == ["SOLVER.INVENTED"]


@pytest.mark.parametrize(
    ("code", "read"),
    [
        ("cfg.SOLVER.SEED", True),
        ("def f(setting):\n    return setting.cfg.SOLVER.SEED", True),
        ("def f(setting):\n    cfg = setting.cfg\n    return cfg.SOLVER.SEED", True),
        ("def f(cfg):\n    part = cfg.SOLVER\n    return [part.SEED]", True),
        ("def f(cfg):\n    part = cfg.SOLVER\ndef g(part):\n    return part.SEED", False),
        ("cfg.SOLVER.SEED = 3", False),
        ("cfg.SOLVER.SEEDS", False),
        ("cfg.TEST.SEED", False),
        ("other.SOLVER.SEED", False),
        ("'cfg.SOLVER.SEED'", False),
    ],
)
def test_only_reading_a_key_from_the_config_counts(code, read):
    assert unread(["SOLVER.SEED"], [ast.parse(code)]) == ([] if read else ["SOLVER.SEED"])


def test_every_module_and_every_public_name_has_a_docstring():
    assert [fault for path, tree in sources().items() for fault in unexplained(path, tree)] == []
    assert unexplained("a.py", ast.parse("def f(): ...\ndef _g(): ...")) == ["a.py", "a.py:f"]


def test_the_top_level_holds_only_the_agreed_names():
    git = ["git", "-C", str(ROOT), "ls-files"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=20)
    except OSError:
        pytest.skip("git is absent")
    if done.returncode or not done.stdout:
        pytest.skip("not a checkout")
    names = {line.split("/")[0] for line in done.stdout.splitlines()}
    assert {name for name in names - TOP_LEVEL if not name.startswith(".git")} == set()
