"""The machine: its name, and how fast it decodes, multiplies and copies.

The limits are measured in the run itself, so that what is held against them saw the same machine.
"""

import platform
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from processor.runtime import Runtime
from utils.environment import usable_cores


def describe_machine(runtime: Runtime) -> dict[str, Any]:
    """Date, processor, cores, GPU, versions and the number type of the forward pass."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "precision": runtime.precision,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU still has to do; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def least_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Least seconds of `repeats` calls of `work`, after one that is not timed."""
    work()
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def decode_rate(encoded: Sequence[bytes], repeats: int) -> float:
    """Frames per second that one thread decodes, from memory into one buffer; the best of `repeats` rounds.

    JPEG files are decoded by simplejpeg with the exact transforms, others by Pillow.
    """
    buffer = np.empty(max(_decoded_bytes(data) for data in encoded), np.uint8)

    def one_round() -> None:
        for data in encoded:
            _decode(data, buffer)

    return len(encoded) / least_seconds(one_round, torch.device("cpu"), repeats)


def _decoded_bytes(data: bytes) -> int:
    with Image.open(BytesIO(data)) as image:
        return image.width * image.height * 3


def _decode(data: bytes, buffer: np.ndarray) -> None:
    if simplejpeg.is_jpeg(data):
        simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False, buffer=buffer)
    else:
        with Image.open(BytesIO(data)) as image:
            np.asarray(image.convert("RGB"))


def matmul_rate(side: int, runtime: Runtime, repeats: int) -> float:
    """FLOP per second of a product of two square matrices (side, side) in the runtime's number type.

    The best of `repeats`.
    """
    a, b = (torch.randn(side, side, device=runtime.device).to(runtime.dtype or torch.float32) for _ in range(2))
    out = torch.empty_like(a)  # (side, side)
    with runtime.autocast():
        seconds = least_seconds(lambda: torch.matmul(a, b, out=out), runtime.device, repeats)
    return 2 * side**3 / seconds


def copy_rate(num_bytes: int, device: torch.device, repeats: int) -> float:
    """Bytes per second that a copy in memory reads and writes together; the best of `repeats`."""
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * num_bytes / least_seconds(lambda: target.copy_(source), device, repeats)
