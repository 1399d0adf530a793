"""The machine: what a run was made with, for the first lines of its log, and what to do when its memory is full."""

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from utils.errors import InputError

# What to change when the memory does not suffice for an epoch, and for a test or the memory pass.
TRAINING_NEEDS_LESS = "raise SOLVER.ACCUM_STEPS, set MODEL.GRAD_CHECKPOINT True, or lower SOLVER.IMS_PER_BATCH"
PASS_NEEDS_LESS = "lower TEST.FRAMES_PER_BATCH"
# Besides torch.OutOfMemoryError: libraries of a GPU, torch and numpy on the CPU.
_MEMORY_IS_FULL = re.compile(r"out of memory|_ALLOC_FAILED|can't allocate memory|Unable to allocate", re.IGNORECASE)
_GIB, _MIB = 2**30, 2**20

_PACKAGES = ("torch", "torchvision", "timm", "yacs", "numpy", "scikit-image", "scipy", "h5py", "av", "lmdb")


def describe_environment(device: torch.device) -> str:
    """Versions of Python, torch, CUDA and packages, the device and the commit, on three lines."""
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return (
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; {versions}\n"
        f"CUDA {torch.version.cuda}, device {device} ({gpu})\n"
        f"commit {current_commit()}"
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def current_commit() -> str:
    """The commit of this code, with -dirty where files differ from it; 'unknown' where git cannot say."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown (not a git checkout)"


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def explain_out_of_memory(advice: str, frames: int = 0) -> Iterator[None]:
    """Within, a full memory of GPU or machine becomes an InputError of one line that ends with `advice`.

    `frames` pass the network at a time, 0 where that is unknown; what they held on the GPU is said per frame.
    """
    before = _allocated()
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not (isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _MEMORY_IS_FULL.search(str(error))):
            raise
        # Tensors of the pass are alive still: the traceback holds them.
        line = out_of_memory_line(error, advice, (_allocated() - before) / frames if frames else 0)
    else:
        return
    raise InputError(line)


def out_of_memory_line(error: BaseException, advice: str, frame_bytes: float = 0) -> str:
    """One line: whose memory is full, bytes asked for, free and in all, bytes held per frame, and `advice`.

    Facts that neither torch's message nor the system gives are left out.
    """
    text = " ".join(str(error).split())
    asked = _bytes_in(r"(?:tried to allocate|Unable to allocate) ([\d.]+) (\w+)", text)
    gpu, total, free = re.search(r"GPU (\d+)", text), None, None
    if gpu or isinstance(error, torch.OutOfMemoryError) or re.search("CUDA|CUBLAS|CUDNN", text):
        where = f"GPU {gpu[1]}" if gpu else "the GPU"
        total, free = (_bytes_in(rf"{before} ([\d.]+) (\w+)", text) for before in ("capacity of", "of which"))
    else:
        where, total = "the machine", _machine_memory()
    facts = [f"{_size(asked)} more were asked for"] if asked else []
    facts += [f"{_size(free)} of {_size(total)} were free"] if total and free is not None else []
    facts += [f"it has {_size(total)}"] if total and free is None else []
    facts += [f"the pass held {_size(frame_bytes)} per frame"] if frame_bytes > 0 else []
    return f"the memory of {where} is full{': ' if facts else ''}{', '.join(facts)}; {advice}"


def _allocated() -> int:
    """Bytes of tensors on the current GPU; 0 where none is in use."""
    return torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0


def _machine_memory() -> int | None:
    """Bytes of memory of the machine, where the system says so."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def _bytes_in(pattern: str, text: str) -> float | None:
    """The size that `pattern` finds as number and unit (bytes, KiB, MiB, ...)."""
    found = re.search(pattern, text, re.IGNORECASE)
    units = {"bytes": 1, "kib": 2**10, "mib": _MIB, "gib": _GIB, "tib": 2**40, "pib": 2**50, "eib": 2**60}
    return float(found[1]) * units.get(found[2].lower(), 1) if found else None


def _size(num_bytes: float) -> str:
    return f"{num_bytes / _GIB:,.2f} GiB" if num_bytes >= _GIB else f"{num_bytes / _MIB:,.1f} MiB"
