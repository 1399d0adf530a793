"""Shared fixtures: a small data set in MARS layout and the options of a tiny model."""

import csv
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode

from configs import load_cfg
from datasets.synthetic.command import write_mars
from model import build_model
from model.tfclip import TFCLIP
from processor.run import train_main
from processor.training.epoch import FiniteCheck

# A shell that starts the tests in the background lets them ignore Ctrl-C, which some of them are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(int(os.environ.get("TFCLIP_TEST_THREADS", "1")))  # tiny tensors: threads cost more than they give

ROOT = Path(__file__).parent.parent
# Files to compare with that do not belong to the project; tests that want them skip where they are absent.
SHARED = Path(os.environ.get("TFCLIP_SHARED", ROOT.parent / "shared"))

TINY_OPTIONS = {
    "MODEL.PRETRAIN_CHOICE": "none",
    "MODEL.STRIDE_SIZE": "[8, 8]",
    "MODEL.ENCODER.WIDTH": "64",
    "MODEL.ENCODER.DEPTH": "2",
    "MODEL.ENCODER.HEADS": "2",
    "MODEL.ENCODER.PATCH": "8",
    "MODEL.ENCODER.EMBED": "64",
    "INPUT.SIZE_TRAIN": "[32, 16]",
    "INPUT.SIZE_TEST": "[32, 16]",
    "INPUT.SEQ_LEN": "2",
    "DATALOADER.NUM_WORKERS": "0",
    "DATALOADER.NUM_INSTANCE": "2",
    "SOLVER.IMS_PER_BATCH": "4",
    "SOLVER.BASE_LR": "1e-3",
    "SOLVER.MAX_EPOCHS": "3",
    "SOLVER.WARMUP_EPOCHS": "1",
    "SOLVER.STEPS": "[2]",
    "SOLVER.EVAL_PERIOD": "1",
}

SCORES = ("mAP", "mINP", "rank1", "rank5", "rank10", "rank20")

# Files that take longest, with several processes the first to be handed out.
LONG = ("split_series", "synthetic_layouts", "ablation", "release_agreement", "synthetic", "layouts", "end_to_end")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole files in the order of LONG, then the rest as it was."""
    place = {f"test_{name}.py": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


def tiny_options(*flags: str, **overrides: object) -> list[str]:
    """argv of the tiny model: flags, then KEY VALUE pairs; an override is written SECTION__KEY=value."""
    options = TINY_OPTIONS | {key.replace("__", "."): str(value) for key, value in overrides.items()}
    return [*flags, *(part for pair in options.items() for part in pair)]


def tiny_cfg(**overrides: object) -> CfgNode:
    """The config of the tiny model."""
    return load_cfg(opts=tiny_options(**overrides))


def tiny_model(num_classes: int = 5, num_cameras: int = 3, seed: int | None = None, **overrides: object) -> TFCLIP:
    """The tiny model, with options as in `tiny_options`; from the same weights for the same seed."""
    if seed is not None:
        torch.manual_seed(seed)
    return build_model(tiny_cfg(**overrides), num_classes, num_cameras)


def metrics(folder: Path) -> dict:
    """The content of metrics.json of a run or a test."""
    return json.loads((folder / "metrics.json").read_text())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table with column names."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def load(path: Path):
    """The content of a checkpoint or another file of tensors and plain Python."""
    return torch.load(path, weights_only=True)


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_error(caplog, main, argv: list[str]) -> str:
    """The only error line of a command that must end with exit code 2."""
    caplog.clear()
    assert main(argv) == 2
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "\n" not in line
    return line


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """A training in a test draws no curves.png, which takes longer than a tiny run; runs of wider fixtures do."""
    monkeypatch.setattr("processor.training.session.save_curves", lambda path, history: None)


@pytest.fixture(scope="session")
def tiny_mars(tmp_path_factory) -> Path:
    """6 training and 4 test identities, 3 cameras, 2 tracklets in each, 32x16 pixels; tests must not write into it."""
    root = tmp_path_factory.mktemp("data") / "mars"
    write_mars(root, train_ids=6, test_ids=4, cameras=3, tracklets=2, frames=(3, 5), size=(32, 16), workers=0)
    return root


@pytest.fixture(scope="session")
def trained_run(tiny_mars, tmp_path_factory) -> Path:
    """OUTPUT_DIR of a finished tiny run with every file asked for; a test that changes it copies it first."""
    out = tmp_path_factory.mktemp("trained") / "run"
    files = {"TEST__SAVE_FEATURES": True, "TEST__SAVE_RANKS": True, "TEST__CONTACT_SHEET": 3, "TEST__UNTRAINED": True}
    assert train_main(tiny_options(DATASETS__ROOT_DIR=tiny_mars, OUTPUT_DIR=out, **files)) == 0
    return out


@pytest.fixture
def tiny_argv(tiny_mars, tmp_path):
    """argv for train_main / eval_main: the tiny model on the tiny set into tmp_path/run, with overrides."""

    def build(*flags: str, **overrides) -> list[str]:
        return tiny_options(*flags, **{"DATASETS__ROOT_DIR": tiny_mars, "OUTPUT_DIR": tmp_path / "run"} | overrides)

    return build


@pytest.fixture
def interrupt_when(monkeypatch):
    """interrupt_when(due): Ctrl-C after each training step with due(epoch, step), until monkeypatch.undo()."""

    def patch(due) -> None:
        def add(self, losses, step):
            unpatched(self, losses, step)
            if due(self.epoch, step):
                raise KeyboardInterrupt

        unpatched = FiniteCheck.add
        monkeypatch.setattr(FiniteCheck, "add", add)

    return patch
