"""One logger for a run: screen and file, set up once by the entry script."""

import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
from tqdm import tqdm

_PACKAGES = ("torch", "torchvision", "timm", "yacs", "numpy", "scikit-image", "scipy")


class _BarFriendlyHandler(logging.StreamHandler):
    """Writes above a running tqdm bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)


def setup_logging(file: Path | None = None, append: bool = False) -> None:
    """Send the messages of all modules to the screen and, with times, to `file`; earlier handlers are replaced."""
    root = logging.getLogger()
    close_logging()
    root.setLevel(logging.INFO)
    screen = _BarFriendlyHandler()
    screen.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(screen)
    if file is not None:
        to_file = logging.FileHandler(file, mode="a" if append else "w", encoding="utf-8")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(to_file)
    for noisy in ("httpx", "huggingface_hub", "timm"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def close_logging() -> None:
    """Close and remove the handlers that `setup_logging` added."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, (_BarFriendlyHandler, logging.FileHandler)):
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
