"""The machine that a benchmark ran on, in a few words."""

import os
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from utils.precision import precision_name


def describe_machine(device: torch.device, dtype: torch.dtype | None) -> dict[str, Any]:
    """Date, processor, cores, GPU, versions and the number type of the forward pass."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "precision": precision_name(dtype),
    }


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
