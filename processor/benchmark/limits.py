"""What the machine could do: raw decoding, matrix products, copies; and how seconds and memory are taken.

The limits are measured in the run itself, so that what is held against them saw the same machine.
"""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux
_RESET_PEAK = "5"


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


def decode_rate(encoded: Sequence[bytes], seconds: float) -> float:
    """Frames per second that one thread decodes, from memory into one buffer; the best of several rounds.

    JPEG files are decoded by simplejpeg with the exact transforms, others by Pillow. Rounds go on for `seconds`.
    """
    buffer = np.empty(max(_decoded_bytes(data) for data in encoded), np.uint8)

    def one_round() -> float:
        start = time.perf_counter()
        for data in encoded:
            _decode(data, buffer)
        return len(encoded) / (time.perf_counter() - start)

    one_round()
    rates, end = [one_round()], time.perf_counter() + seconds
    while time.perf_counter() < end:
        rates.append(one_round())
    return max(rates)


def _decoded_bytes(data: bytes) -> int:
    with Image.open(BytesIO(data)) as image:
        return image.width * image.height * 3


def _decode(data: bytes, buffer: np.ndarray) -> None:
    if simplejpeg.is_jpeg(data):
        simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False, buffer=buffer)
    else:
        with Image.open(BytesIO(data)) as image:
            np.asarray(image.convert("RGB"))


def matmul_rate(side: int, device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """FLOP per second of a product of two square matrices (side, side); the best of `repeats`."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)  # (side, side)
    return 2 * side**3 / least_seconds(lambda: torch.matmul(a, b, out=out), device, repeats)


def copy_rate(num_bytes: int, device: torch.device, repeats: int) -> float:
    """Bytes per second that a copy in memory reads and writes together; the best of `repeats`."""
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * num_bytes / least_seconds(lambda: target.copy_(source), device, repeats)


class StepClock:
    """Yields `batch` as often as asked for and notes when; on a GPU by events, so that nothing waits for it."""

    def __init__(self, batch: object, count: int, device: torch.device) -> None:
        self.batch, self.count, self.device = batch, count, device
        self.marks: list = []

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator:
        for _ in range(self.count):
            self._mark()
            yield self.batch
        self._mark()

    def _mark(self) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """From each batch to the next, and from the last one to the end: `count` numbers."""
        synchronize(self.device)
        pairs = list(zip(self.marks, self.marks[1:]))
        if self.device.type == "cuda":
            return [before.elapsed_time(after) / 1000 for before, after in pairs]
        return [after - before for before, after in pairs]


def steady_rate(batches: Iterable, frames_of: Callable[[object], int], skipped: int, seconds: float) -> float:
    """Frames per second of an iterable of batches, from the arrival of batch `skipped` (from 1) on.

    Stops after `seconds` or with the iterable; raises ValueError when that gave no batch to count.
    """
    frames, start, last = 0, None, 0.0
    for number, batch in enumerate(batches, start=1):
        last = time.perf_counter()
        if start is None:
            start = last if number >= skipped else None
            continue
        frames += frames_of(batch)
        if last - start >= seconds:
            break
    if not frames:
        raise ValueError(f"no batch came after the {skipped} that are not counted")
    return frames / (last - start)


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


class PeakMemory:
    """Within it, memory is watched: `bytes` is afterwards the peak over what was held before.

    On a GPU what torch has allocated there; else the resident memory of this process, None where the system cannot
    reset its peak (only Linux can). What the process keeps of freed memory hides as much, so measure in a fresh one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before: int | None = torch.cuda.memory_allocated(self.device)
        else:
            self._before = _resident("VmRSS") if _reset_peak() else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        on_gpu = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) if on_gpu else _resident("VmHWM")
        self.bytes = peak - self._before


def _reset_peak() -> bool:
    _give_back_freed()
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _give_back_freed() -> None:
    """Hand freed memory that the C library keeps (glibc does) to the system: taken again, it would raise no peak."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another library or system
        pass


def _resident(field: str) -> int:
    """Bytes of VmRSS (resident now) or VmHWM (its peak)."""
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024
