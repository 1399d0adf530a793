"""Opens image files completely, in several processes: what each one holds, or what is wrong with it."""

import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from io import BytesIO
from itertools import chain
from typing import NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from datasets.frames.modes import to_rgb
from datasets.regular import read_regular
from utils.errors import InputError
from utils.interrupt import check_interrupt, deferred_interrupts
from utils.progress import progress

_FILES_PER_JOB = 64
# Remarks on a sound file, as they follow `2 of 300 frames`.
TURNED = "name an EXIF orientation, which no reader obeys: training sees the stored pixels"
CMYK = "are CMYK and are converted to RGB without their colour profile"
DEEP = "have 16 bits per colour, of which 8 are used"
SEVERAL = "hold several pictures, of which the first is used"
REMARKS = (TURNED, CMYK, DEEP, SEVERAL)


class OpenedFrame(NamedTuple):
    """What one image file holds."""

    fault: str = ""  # what is wrong with it; empty: it was decoded to its last pixel
    missing: bool = False  # there is no such file
    digest: bytes = b""  # of the file's bytes; empty for a faulty one
    width: int = 0  # pixels
    height: int = 0  # pixels
    remarks: tuple[str, ...] = ()  # of REMARKS


def open_frames(paths: Sequence[str], processes: int) -> dict[str, OpenedFrame]:
    """Read and decode every file once, in `processes` further processes or, with 0, in this one.

    Must be called from the main thread unless `processes` is 0, because it holds back Ctrl-C while they start. Raises
    InputError when the system ends one of them.
    """
    jobs = [paths[start : start + _FILES_PER_JOB] for start in range(0, len(paths), _FILES_PER_JOB)]
    opened = {}
    with deferred_interrupts():  # a Ctrl-C that is raised at any line may be swallowed by a destructor
        with _in_processes(jobs, processes) if processes and jobs else nullcontext(map(_open_all, jobs)) as parts:
            frames = progress(chain.from_iterable(parts), "opening frames", "frame", total=len(paths))
            for frame, path in zip(frames, paths):
                check_interrupt()
                opened[path] = frame
        check_interrupt()
    return opened


@contextmanager
def _in_processes(jobs: Sequence[Sequence[str]], processes: int) -> Iterator[Iterator[list[OpenedFrame]]]:
    """The result of each job, in order; an executor, unlike a pool, notices a worker that the system ended."""
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(min(processes, len(jobs)), multiprocessing.get_context("spawn"))
    try:
        # Workers inherit the ignored Ctrl-C: this process alone ends the work, and no worker prints a traceback.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            parts = executor.map(_open_all, jobs)
        finally:
            signal.signal(signal.SIGINT, before)
        yield parts
    except BrokenProcessPool:
        line = "a process that opens frames was ended by the system; DATALOADER.NUM_WORKERS 0 opens them without any"
        raise InputError(line) from None
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _open_all(paths: Iterable[str]) -> list[OpenedFrame]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on metadata that no run reads
        return [open_frame(path) for path in paths]


def open_frame(path: str) -> OpenedFrame:
    """Read one file and decode it to its last pixel, as a run does."""
    try:
        content = read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return OpenedFrame("does not exist", missing=True)
    except OSError as error:
        return OpenedFrame(f"cannot be opened ({error.strerror})")
    except ValueError as error:  # a name that no file can have
        return OpenedFrame(f"cannot be opened ({_one_line(error)})")
    if not content:
        return OpenedFrame("holds no byte")
    try:
        with Image.open(BytesIO(content)) as image:
            deep = ";16" in str(image.tile)  # also 16 bits per colour, which Pillow opens as 8; gone once decoded
            width, height = to_rgb(image).size
            remarks = _remarks(image, deep)
    except UnidentifiedImageError:
        return OpenedFrame("is no image")
    except Exception as error:  # Pillow raises many kinds for broken files
        return OpenedFrame(f"cannot be decoded ({_one_line(error)})")
    return OpenedFrame("", False, blake2b(content, digest_size=16).digest(), width, height, remarks)


def _remarks(image: Image.Image, deep: bool) -> tuple[str, ...]:
    """What training does not show as other programs do, of a decoded picture with more than 8 bits if it is `deep`."""
    found = {
        TURNED: lambda: image.getexif().get(ExifTags.Base.Orientation, 1) != 1,  # of TIFF, which Pillow turns, gone
        CMYK: lambda: image.mode == "CMYK",
        DEEP: lambda: deep,
        SEVERAL: lambda: getattr(image, "is_animated", False),
    }
    return tuple(remark for remark, holds in found.items() if _holds(holds))


def _holds(condition: Callable[[], bool]) -> bool:
    """Whether it holds; it does not where Pillow cannot tell, because a run reads only the picture itself."""
    try:
        return bool(condition())
    except Exception:  # Pillow raises many kinds for broken metadata
        return False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
