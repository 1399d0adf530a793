"""One logger for a run: screen and file, set up once by the entry script."""

import importlib.metadata
import logging
import logging.handlers
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from utils.errors import InputError

_BACKLOG = 10_000  # messages
_PACKAGES = ("torch", "torchvision", "timm", "yacs", "numpy", "scikit-image", "scipy", "h5py", "av", "lmdb")


class _Backlog(logging.handlers.MemoryHandler):
    """Messages that wait for their file."""


class _RunFile(logging.FileHandler):
    """The log file of a run."""


class _BarFriendlyHandler(logging.StreamHandler):
    """Writes above a running tqdm bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr if record.levelno >= logging.ERROR else sys.stdout)


def setup_logging() -> None:
    """Send the messages of all modules to the screen, and keep them for the log file until there is one."""
    close_logging()
    screen = _BarFriendlyHandler()
    screen.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(screen)
    root.addHandler(_Backlog(capacity=_BACKLOG, flushLevel=logging.CRITICAL + 1))
    for noisy in ("httpx", "huggingface_hub", "timm"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def log_to_file(file: Path, append: bool = False) -> None:
    """Write the messages so far and all later ones to `file`, with times; a run calls it once its input is sound."""
    root = logging.getLogger()
    try:
        to_file = _RunFile(file, mode="a" if append else "w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror})") from None
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for handler in root.handlers[:]:
        if isinstance(handler, _Backlog):
            handler.setTarget(to_file)
            root.removeHandler(handler)
            handler.close()  # hands its messages to the file
    root.addHandler(to_file)


def hold_messages() -> None:
    """Close the log file; messages wait for the next one."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _RunFile)]:
        root.removeHandler(handler)
        handler.close()
    if not any(isinstance(handler, _Backlog) for handler in root.handlers):
        root.addHandler(_Backlog(capacity=_BACKLOG, flushLevel=logging.CRITICAL + 1))


def close_logging() -> None:
    """Close and remove the handlers of this module."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, (_BarFriendlyHandler, _Backlog, _RunFile)):
            root.removeHandler(handler)
            handler.close()


def describe_environment(device: torch.device) -> str:
    """Versions of Python, torch, CUDA and packages, the device and the commit, on three lines."""
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return (
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; {versions}\n"
        f"CUDA {torch.version.cuda}, device {device} ({gpu})\n"
        f"commit {_commit()}"
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _commit() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown (not a git checkout)"
