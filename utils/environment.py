"""What a run was made with: versions, device and commit, for the first lines of its log."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

_PACKAGES = ("torch", "torchvision", "timm", "yacs", "numpy", "scikit-image", "scipy", "h5py", "av", "lmdb")


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
