"""Every command that README and docs print is tried.

All of them are parsed here as written: the program exists, the command's own parser takes the words, and the config
that they make is checked; nothing is read or computed. A command also runs, with what makes it small behind its words
(slow), where the data can be drawn (a public set in `/path/to/...`, `data/...`, `my-data`, a run on such data) and no
weights of CLIP or of the authors are needed. The rest runs small in other tests: tests/processor/benchmark,
tests/processor/ranks (torchrun), tests/processor/ablation (rows with a text branch), tests/model/weights (published
files).
"""

import ast
import importlib
import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from argparse import Namespace
from importlib.metadata import entry_points
from itertools import dropwhile
from pathlib import Path

import numpy as np
import pytest
from torch.distributed.run import get_args_parser

from configs import load_cfg
from configs.command import DEFAULT_CONFIG, CommandParser
from datasets.synthetic.command import write_set
from tests.conftest import ROOT, TINY_OPTIONS
from tests.docs.pages import Block, Command, blocks, commands, modules, scripts

ROOMS = ("configs", "datasets", "loss", "model", "processor", "solver", "utils")
SCRIPTS = ("train-main.py", "eval-main.py")
SMALL = {"train_ids": 6, "test_ids": 4, "tracklets": 2, "frames": (9, 10), "size": (32, 16), "workers": 0}
LAYOUTS = {  # a folder that pages name -> the layout of what lies in it
    "/path/to/MARS": "mars", "/path/to/set": "mars", "/path/to/LS-VID": "lsvid", "/path/to/iLIDS-VID": "ilids",
    "/path/to/Market-1501-v15.09.15": "market1501", "/path/to/MSMT17_V1": "msmt17", "my-data": "folder",
    "data/synthetic-mars": "mars", "data/synthetic-ilids": "ilids",
    "data/synthetic-ilids-long": "ilids",
}  # fmt: skip
RUN_SMALL = (
    "datasets.check", "datasets.pack", "datasets.synthetic", "processor.ablation", "processor.colour_baseline",
    "configs.reference", "processor.report", "processor.attention", "processor.compare", "processor.extract",
    "processor.search", "processor.export",
)  # fmt: skip


class Parsed(BaseException):
    """A command's own parser has taken its words."""

    def __init__(self, arguments: Namespace) -> None:
        self.arguments = arguments


def start(words: tuple[str, ...] | list[str]) -> int:
    """Run `python WORDS...` in this process; returns the exit code."""
    run = runpy.run_module if words[0] == "-m" else runpy.run_path
    words = words[1:] if words[0] == "-m" else words
    before = sys.argv
    sys.argv = list(words)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the module was imported before, by another test
            run(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = before
    return 0


def parsed(words: tuple[str, ...] | list[str], monkeypatch) -> Namespace:
    """What the parser of `python WORDS...` makes of them; fails where the command has none."""

    def parse(self, argv):
        raise Parsed(original(self, argv))

    original = CommandParser.parse
    with monkeypatch.context() as patch:
        patch.setattr(CommandParser, "parse", parse)
        try:
            code = start(words)
        except Parsed as done:
            return done.arguments
    pytest.fail(f"python {' '.join(words)} ended with {code} before its arguments were read")


def check_config(arguments: Namespace) -> None:
    """KEY VALUE pairs, rows of an ablation and the config file; a config of a reader's run counts as the default."""
    base = vars(arguments).get("config_file") or DEFAULT_CONFIG
    base = DEFAULT_CONFIG if str(base).startswith("runs/") else ROOT / base
    given = vars(arguments).get("opts", vars(arguments).get("rows_and_opts", []))
    rows = [word for word in given if word.endswith(".yml")]
    files = [path for row in rows if row != "mine.yml" for path in (sorted(ROOT.glob(row)) or [ROOT / row])]
    for row in files or [None]:
        load_cfg([base, row] if row else base, given[len(rows) :])


def check_python(words: tuple[str, ...] | list[str], monkeypatch) -> None:
    """`python WORDS...`: a script or module of this project, which takes the rest of the words."""
    if words[:2] == ("-m", "venv") or words[:2] == ("-m", "pip"):
        return
    name = words[1] if words[0] == "-m" else words[0]
    assert name.split(".")[0] in ROOMS or name in SCRIPTS, f"{name} is none of this project's commands"
    if len(words) > (2 if words[0] == "-m" else 1) or name in SCRIPTS:
        check_config(parsed(words, monkeypatch))
    else:
        assert importlib.util.find_spec(name)


def check(words: tuple[str, ...] | list[str], monkeypatch) -> None:
    """The class of a command and its check; a command of no class fails."""
    words = tuple(words)
    while "=" in words[0]:
        name = words[0].partition("=")[0]
        code = "\n".join(path.read_text() for path in (*ROOT.glob("*/*.py"), *ROOT.glob("tests/gpu/*.py")))
        assert name in {"CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTHON"} or name in code, f"nothing reads {name}"
        words = words[1:]
    requirements = (ROOT / "requirements.txt").read_text() + (ROOT / "Makefile").read_text()
    program, rest = Path(words[0]).name, words[1:]
    if program in ("python", "python3"):
        check_python(rest, monkeypatch)
    elif program == "torchrun":
        arguments = get_args_parser().parse_args(list(rest))
        module = ("-m",) if arguments.module else ()
        check_python((*module, arguments.training_script, *arguments.training_script_args), monkeypatch)
    elif program == "make":
        subprocess.run(["make", "-n", *rest], cwd=ROOT, check=True, capture_output=True, timeout=60)
    elif words[:3] == ("pip", "install", "-r"):
        assert (ROOT / words[3]).is_file()
    elif words[:2] == ("pip", "install"):
        names = [re.split("[<>=]", word)[0] for word in words[2:] if not word.startswith("-")]
        assert names and [name for name in names if name not in requirements] == []
    elif words == ("source", ".venv/bin/activate"):
        assert "VENV ?= .venv" in requirements
    else:
        brought = [script.dist.name.lower() for script in entry_points(group="console_scripts", name=program)]
        assert set(brought) & set(re.findall(r"^[\w-]+", requirements, re.M)), f"{program} is of no known class"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Commands are printed for the root of the project."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("command", commands(), ids=str)
def test_every_command_is_taken_as_written(command, monkeypatch):
    check(command.words, monkeypatch)


@pytest.mark.parametrize("script", scripts(), ids=str)
def test_shell_scripts_are_shell_and_their_commands_are_taken(script, monkeypatch):
    subprocess.run(["bash", "-n"], input=script.text, text=True, check=True, timeout=20)
    started = re.findall(r"\btorchrun (.*?)'", script.text.replace("\\\n", " "))
    assert started
    for line in started:
        check(["torchrun", *re.sub(r"\$\w+", "2", line).split()], monkeypatch)


@pytest.mark.parametrize("target", ["demo", "docs-check"])
def test_the_lines_of_a_make_target_are_taken(target, monkeypatch):
    words = ["make", "-n", "--no-print-directory", target]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    lines = [line.split() for line in done.stdout.splitlines() if "-m pip" not in line and not line.startswith("touch")]
    for words in lines:
        words = [word for word in words if not word.startswith("OMP")]
        if words[1:3] == ["-m", "pytest"]:
            assert [word for word in words[3:] if word.startswith("tests/") and not (ROOT / word).exists()] == []
        else:
            check(words, monkeypatch)
    assert lines


@pytest.mark.parametrize("name", modules())
def test_every_module_has_help(name, capsys):
    assert start(["-m", name, "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage:")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("python train-main.py SOLVER.BASE_RL 1", "did you mean SOLVER.BASE_LR"),
        ("python train-main.py --resum", "ended with 2"),
        ("python -m datasets.pack --out x --overwrite --check", "ended with 2"),
        ("python -m processor.invented runs/mars", "No module named processor.invented"),
        ("python -m processor.invented", "assert None"),
        ("python eval-main.py --config_file configs/vit_bass.yml", "vit_bass.yml"),
        ("python -m processor.ablation rows.yml", "rows.yml"),
        ("python run.py", "none of this project's commands"),
        ("torchrun --nproc_per_nodes 2 train-main.py", "^2$"),
        ("torchrun --nproc_per_node 2 train-main.py TEST.AP exact", "TEST.AP must be one of"),
        ("pip install torchvideo", "torchvideo"),
        ("make demos", "make.*demos"),
        ("TFCLIP_INVENTED=1 make demo", "nothing reads TFCLIP_INVENTED"),
        ("curl example.org", "curl is of no known class"),
    ],
)
def test_a_command_that_is_wrong_is_noticed(line, message, monkeypatch):
    with pytest.raises(BaseException, match=message):
        check(line.split(), monkeypatch)


def python_blocks() -> list[Block]:
    """Python that stands by itself; the new files of docs/extending.md are run by tests/test_extending.py."""
    return [block for block in blocks() if block.tag == "python" and not block.before.endswith("a new file:")]


@pytest.mark.parametrize("block", python_blocks(), ids=str)
def test_python_compiles_and_its_imports_resolve(block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert [a.name for a in node.names if not hasattr(importlib.import_module(node.module), a.name)] == []
        elif isinstance(node, ast.Import):
            assert all(importlib.util.find_spec(alias.name) for alias in node.names)


def tiny_arguments(words: tuple[str, ...]) -> list[str] | None:
    """What makes `python WORDS...` small; None for a command that only its parser sees."""
    text = " ".join(words)
    if words[0] == "-m" and words[1] not in RUN_SMALL:
        return None
    if any(part in text for part in ("MODEL.NAME", "rn50.yml", "best_model.pth.tar", "corridor", "row*.yml", "vitb.pth")):
        return None
    if "--cost-only" in words:
        return ["configs/ablation/table2_row4.yml"]
    if words[:2] == ("-m", "datasets.synthetic"):
        small = "--train-ids 6 --test-ids 4 --frames 9 10 --size 32 16 --workers 0 --overwrite"
        return small.split() if "--root" in words else None
    if words[0] == "-m" and words[1] != "processor.ablation":
        return [] if len(words) > 2 or words[1] == "configs.reference" else None
    if words[0] == "-m" and len(words) == 2:
        return None
    options = TINY_OPTIONS | {"SOLVER.MAX_EPOCHS": "1", "SOLVER.STEPS": "[]", "SOLVER.WARMUP_EPOCHS": "0"}
    options |= {"DATASETS.CACHE_DIR": "cache", "TEST.SAVE_FEATURES": "True", "DATASETS.VAL_FRACTION": "0.4"}
    if "market1501" in text or "msmt17" in text:
        options["INPUT.SEQ_LEN"] = "1"
    return [part for pair in options.items() for part in pair]


def is_setting(word: str) -> bool:
    """Whether a word before a command sets a variable of the environment."""
    return re.match(r"[A-Z_]+=", word) is not None


RUNNABLE = [
    command
    for command in dict.fromkeys(Command("", tuple(dropwhile(is_setting, c.words))) for c in commands())
    if command.words[0] == "python" and tiny_arguments(command.words[1:]) is not None
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with this project's code, small data in every layout that pages name, and a run in runs/mars."""
    folder = tmp_path_factory.mktemp("reader")
    for name in (*ROOMS, *SCRIPTS):
        (folder / name).symlink_to(ROOT / name)
    for layout in set(LAYOUTS.values()):
        shape = {"cameras": 2, "tracklets": 1} if layout == "ilids" else {"cameras": 3}
        write_set(folder / "sets" / layout, layout, **SMALL | shape)
    (folder / "your_dataset_dir").symlink_to(folder / "sets" / "mars")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train = ("train-main.py", "DATASETS.ROOT_DIR", "/path/to/MARS", "OUTPUT_DIR", "runs/mars")
        assert run_small(train, folder) == 0
        shutil.copytree("runs/mars", "your_output_dir")
        shutil.copy("runs/mars/best.pth", "other.pth")
        Path("mine.yml").write_text("MODEL:\n   TEMPORAL: 'TAP'\n")
        for name in ("base", "new", *(f"{row}{seed}" for row in ("base", "new") for seed in (1, 2, 3))):
            shutil.copytree("runs/mars", f"runs/{name}")
        tracklets = sorted(path for path in Path("sets/mars/bbox_test").iterdir() if path.is_dir())
        for name, tracklet in zip(("my-tracklet", "my-query", "my-tracklets/a", "my-tracklets/b"), tracklets):
            shutil.copytree(tracklet, name)
        for name, source in (("a", tracklets[0]), ("b", tracklets[1])):
            Path(name).mkdir()
            for number, frame in enumerate(sorted(source.iterdir())[:3], start=1):
                shutil.copy(frame, f"{name}/{number}.jpg")
        np.save("frames.npy", np.zeros((5, 32, 16, 3), np.uint8))
        trained = ("--weight", "runs/mars/best.pth")
        assert start(("-m", "processor.extract", *trained, "--input", "my-tracklets", "--out", "features.npz")) == 0
        for form in ("onnx", "pt2"):
            out = ("--format", form, "--out", f"tf-clip.{form}")
            assert start(("-m", "processor.export", *trained, *out)) == 0
    return folder


def placed(text: str, folder: Path) -> str:
    """A word or a snippet of a page with the folders of `folder` in the place of those of a reader."""
    for name, layout in LAYOUTS.items():
        text = re.sub(rf"(?<![\w/-]){re.escape(name)}(?![\w-])", str(folder / "sets" / layout), text)
    return text


def run_small(words: tuple[str, ...], folder: Path) -> int:
    """Run `python WORDS...` on the small data; returns the exit code."""
    drawing = words[:2] == ("-m", "datasets.synthetic")
    words = [word if drawing else placed(word, folder) for word in (*words, *tiny_arguments(words))]
    return start(words)


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNNABLE, ids=str)
def test_commands_run_on_small_data(command, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    words = command.words[1:]
    if words[0] == "train-main.py" and "--resume" not in words:
        words = (*words, "--overwrite")
    assert run_small(words, workspace) == 0


@pytest.mark.slow
@pytest.mark.parametrize("block", python_blocks(), ids=str)
def test_python_runs_on_small_data(block, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(sys, "argv", ["feature.py", "tf-clip.onnx", "frames.npy", "3"])
    exec(compile(placed(block.text, workspace), block.page, "exec"), {"__name__": "snippet"})


def test_most_commands_run_for_real():
    assert len(RUNNABLE) >= 15 and len(commands()) > len(RUNNABLE)
