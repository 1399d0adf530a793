"""The house: who imports whom, who sees the config, every key is read, every public name is explained."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from configs import get_cfg
from configs.load import flatten

ROOT = Path(__file__).parent.parent
# Rooms from left to right, and the parts of the processor: what all runs share, testing, training, one run after
# another, the commands. Imports run leftward; rooms and parts of one level do not import each other.
LEVEL = {
    "utils": 0, "configs": 1, "datasets": 2, "model": 2, "solver": 2, "loss": 3, "processor": 4,
    "processor.evaluation": 5, "processor.training": 6, "processor.series": 7, "processor.extractor": 7,
    "processor.compare": 8, "processor.attention": 8, "processor.export": 8, "processor.extract": 8,
    "processor.search": 8, "processor.report": 8, "processor.ablation": 9, "processor.benchmark": 9,
    "processor.colour_baseline": 9, "processor.run": 9,
}  # fmt: skip
ROOMS = [name for name in LEVEL if "." not in name]
# Packages with a face: others import what their __init__ names, and no module inside.
FACES = (
    "datasets.check", "datasets.clips", "datasets.frames", "datasets.synthetic", "model.weights",
    "processor.ablation", "processor.benchmark", "processor.compare", "processor.evaluation",
    "processor.evaluation.html_report", "processor.export", "processor.extractor", "processor.search",
    "processor.training",
)  # fmt: skip
SCRIPTS = ("train-main.py", "eval-main.py")
# What turns a config into plain arguments: builders, commands, and the pages that a run is read on.
SEE_CONFIG = {f"{room}/build.py" for room in ROOMS} | {
    "datasets/check/command.py", "datasets/pack.py", "datasets/synthetic/command.py",
    "processor/ablation/command.py", "processor/benchmark/command.py", "processor/colour_baseline.py",
    "processor/attention.py", "processor/compare/command.py", "processor/evaluation/attention.py",
    "processor/evaluation/session.py", "processor/experiment.py", "processor/export/command.py",
    "processor/extract.py", "processor/extractor/extraction.py", "processor/extractor/extractor.py",
    "processor/extractor/table.py", "processor/launch.py", "processor/report/command.py", "processor/report/source.py",
    "processor/run.py", "processor/search/command.py", "processor/series.py",
    "processor/trained_model.py", "processor/training/memory.py", "processor/training/session.py",
    "processor/training/events.py", "processor/training/state.py",
}  # fmt: skip
TOP_LEVEL = {
    *ROOMS, *SCRIPTS, "tests", "docs", ".ci", "requirements.txt", "README.md", "LICENSE", "Makefile", "pyproject.toml",
    "CHANGELOG.md", "CITATION.cff",
}  # fmt: skip
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def sources() -> dict[str, ast.Module]:
    """Path from the root -> syntax tree, of all rooms and both scripts."""
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    paths += [ROOT / script for script in SCRIPTS]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def imported_modules(tree: ast.Module, room: str) -> Iterator[str]:
    """Dotted names of all imports, those inside functions too; a relative import stays in its room."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{room}.{node.module}" if node.level else node.module


def part_of(module: str) -> str:
    """The part of the house that a dotted module lies in; empty for what is not ours."""
    return next((name for name in (".".join(module.split(".")[:2]), module.split(".")[0]) if name in LEVEL), "")


def import_faults(path: str, tree: ast.Module) -> list[str]:
    """Imports of `path` that do not run leftward."""
    own = part_of(path.removesuffix(".py").replace("/", "."))
    parts = {part_of(module) for module in imported_modules(tree, path.split("/")[0])} - {own, ""}
    parts |= {"tests" for module in imported_modules(tree, "") if module.split(".")[0] == "tests"}
    return [f"{path} imports {part}" for part in sorted(parts) if LEVEL.get(part, 98) >= LEVEL.get(own, 99)]


def face_faults(path: str, tree: ast.Module) -> list[str]:
    """Imports of `path` that reach past the face of a package into one of its modules."""
    inside = path.replace("/", ".")
    modules = sorted(set(imported_modules(tree, path.split("/")[0])))
    return [
        f"{path} imports {module}"
        for module in modules
        for face in FACES
        if module.startswith(f"{face}.") and not inside.startswith(f"{face}.")
    ]


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
        ("utils/a.py", "from configs import load_cfg", ["utils/a.py imports configs"]),
        ("processor/evaluation/a.py", "import processor.training.a", ["processor/evaluation/a.py imports processor.training"]),  # noqa: E501
        ("processor/a.py", "from processor.series import train", ["processor/a.py imports processor.series"]),
        ("processor/training/a.py", "from processor.evaluation import x\nfrom processor.runtime import y", []),
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


def test_packages_are_entered_by_their_face():
    assert [fault for path, tree in sources().items() for fault in face_faults(path, tree)] == []
    inner = ast.parse("from model.weights.load import load_weights")
    assert face_faults("processor/a.py", inner) == ["processor/a.py imports model.weights.load"]
    assert face_faults("model/weights/a.py", inner) == []
    assert face_faults("processor/a.py", ast.parse("from model.weights import load_weights")) == []


def test_no_folder_is_crowded():
    """A stranger finds a file by its folder: about 14 files of code in each at most."""
    tests = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")]
    folders = Counter(path.rpartition("/")[0] for path in [*sources(), *tests] if not path.endswith("__init__.py"))
    assert {folder: count for folder, count in folders.items() if count > 15} == {}


def test_entry_scripts_import_the_processor_alone():
    trees = sources()
    for script in SCRIPTS:
        assert {m.split(".")[0] for m in imported_modules(trees[script], "")} & {*ROOMS, "tests"} == {"processor"}


def test_only_builders_and_commands_see_the_config():
    seen = {path for path, tree in sources().items() if sees_cfg(tree) and not path.startswith("configs/")}
    assert seen - SEE_CONFIG == set()
    assert {path for path in SEE_CONFIG if (ROOT / path).exists()} == seen


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


def test_a_mistyped_key_is_answered_without_torch():
    """torch takes seconds to import; the answer to a typo must not wait for it."""
    code = (
        "import sys; from processor.run import train_main; code = train_main(['SOLVER.BASE_RL', '1']); "
        "print(code, {'torch', 'torchvision', 'timm', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "2 set()" and "did you mean SOLVER.BASE_LR?" in done.stderr
