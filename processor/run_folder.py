"""The folder of a run: the names of its files, and when a new run may write there."""

import errno
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from datasets.tracklet import ReIDSplits
from loss.criterion import LOSS_TERMS
from utils.checkpoint import Checkpoint
from utils.errors import InputError, printable
from utils.files import host_name, is_running, remove_left_behind, save_csv, save_json
from utils.metrics import SCORES

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

TRAIN_LOG, TEST_LOG, CONFIG, HISTORY = "train_log.txt", "test_log.txt", "config.yml", "history.csv"
LAST, BEST, MEMORY, METRICS = "last.pth", "best.pth", "clip_memory.pt", "metrics.json"
FEATURES, RANKS, SHEET, PAIRS = "features.npz", "ranks.csv", "contact_sheet.png", "camera_pairs.csv"
LABELS, SPLITS_TABLE, TEXT_FEATURES = "labels.json", "splits.csv", "text_features.pt"
CURVES, PAGE = "curves.png", "report/index.html"
ATTENTION = "attention"  # folder of pictures (processor.attention)
EVENTS, EVENT_FILES = "tensorboard", "events.out.tfevents.*"  # folder and files
LOCK = "run.lock"
NONFINITE = "nonfinite_epoch{epoch}_step{step}.csv"  # tracklets of a batch
BEFORE_TRAINING = (MEMORY, TEXT_FEATURES)
_RUN_FILES = (LAST, BEST, HISTORY, *BEFORE_TRAINING)
_BEAT = 5.0  # seconds between two signs of life in the lock file
_held: set[tuple[int, Path]] = set()  # process and folder of each lock
_HISTORY_COLUMNS = ("epoch", "lr", *(f"loss_{name}" for name in LOSS_TERMS), "seconds", *SCORES)


@contextmanager
def lock(output_dir: Path, advice: str = "wait for its end, or name another OUTPUT_DIR") -> Iterator[None]:
    """Within, no other process works in the folder; it is made, and removed at the end where nothing was put there.

    A record lock (fcntl) on run.lock: the kernel frees it when the process ends, in whatever way, and forked loader
    processes do not inherit it, as they would one of flock. Where the file system has no locks, or the file was left by
    another host, which may not share its locks, the sign of life that a running process gives in the file decides; it
    is waited for during four periods. Two processes that start there within one period are not kept apart. A process
    may lock a folder again. Raises InputError, ending in `advice`, when another process has the folder.
    """
    key = (os.getpid(), output_dir.resolve())
    if key in _held:
        yield
        return
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"OUTPUT_DIR {output_dir} is a file; name a folder")
    check_writable(output_dir)
    made = [folder for folder in (key[1], *key[1].parents) if not folder.exists()]
    try:
        descriptor = _take(output_dir, advice)
        _held.add(key)
        ended = threading.Event()
        threading.Thread(target=_give_signs, args=(output_dir / LOCK, ended), daemon=True).start()
        try:
            remove_left_behind(output_dir)
            yield
        finally:
            ended.set()
            _held.remove(key)
            with suppress(OSError):
                (output_dir / LOCK).unlink()  # before it is freed: then it is not yet another's
            os.close(descriptor)
    finally:
        with suppress(OSError):  # something was put there
            for folder in made:
                folder.rmdir()


def _take(output_dir: Path, advice: str) -> int:
    """The descriptor of the lock file, locked and with the name of this process in it."""
    descriptor, is_locked, owner = _open_lock(output_dir, advice)
    if owner and not (is_locked and owner["host"] == host_name()):
        os.close(descriptor)
        _await_sign(output_dir, owner, advice)
        descriptor, _, _ = _open_lock(output_dir, advice)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    owner = {"process": os.getpid(), "host": host_name(), "since": since, "command": sys.argv}
    with suppress(OSError):  # on a full disk it holds without a name
        os.truncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(owner).encode())
    return descriptor


def _open_lock(output_dir: Path, advice: str) -> tuple[int, bool, dict[str, Any]]:
    """The lock file's descriptor, whether the file system gave the lock, and who the file names: {} for nobody."""
    path = output_dir / LOCK
    while True:
        create_output_dir(output_dir)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process has just removed its empty folder
            continue
        except OSError as error:
            raise InputError(f"OUTPUT_DIR {output_dir} cannot be written ({error.strerror})") from None
        owner = _read_owner(descriptor)
        try:
            if fcntl is not None:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = fcntl is not None
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(descriptor)
                raise _in_use(output_dir, owner, advice) from None
            is_locked = False
        with suppress(FileNotFoundError):  # the owner before may have removed the file since it was opened
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor, is_locked, owner
        os.close(descriptor)


def _await_sign(output_dir: Path, owner: Mapping[str, Any], advice: str) -> None:
    """Raise InputError when the process that the lock file names shows within four periods that it is running."""
    if owner["host"] == host_name():
        if owner["process"] != os.getpid() and is_running(owner["process"]):
            raise _in_use(output_dir, owner, advice)
        return
    logger.info(
        "OUTPUT_DIR %s was in use on host %s: waiting %.0f s for a sign that it still is",
        output_dir, printable(owner["host"]), 4 * _BEAT,
    )  # fmt: skip
    signs = set()
    for _ in range(9):
        try:
            with (output_dir / LOCK).open("rb") as file:  # opened anew: a network file system then asks its server
                signs.add(os.fstat(file.fileno()).st_mtime_ns)
        except OSError:
            return
        if len(signs) > 1:
            raise _in_use(output_dir, owner, advice)
        time.sleep(_BEAT / 2)


def _give_signs(path: Path, ended: threading.Event) -> None:
    """Renew the time of the lock file in each period."""
    while not ended.wait(_BEAT):
        with suppress(OSError):
            os.utime(path)


def _read_owner(descriptor: int) -> dict[str, Any]:
    """What the lock file says of its process; {} when it says nothing."""
    try:
        owner = json.loads(os.read(descriptor, 1 << 20))
        return {"process": int(owner["process"]), "host": str(owner["host"]), "since": str(owner["since"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _in_use(output_dir: Path, owner: Mapping[str, Any], advice: str) -> InputError:
    by = "process {process} on host {host} since {since}".format(**owner) if owner else "another process"
    return InputError(f"OUTPUT_DIR {output_dir} is in use by {printable(by)}: {advice}")


def load_last(output_dir: Path) -> Checkpoint:
    """The state in last.pth.

    Raises InputError when last.pth is missing or broken, naming best.pth where that can take its place, and when
    best.pth, which the final test will need, is broken.
    """
    try:
        checkpoint = Checkpoint.load(output_dir / LAST)
    except InputError as error:
        raise type(error)(f"{error}{_spare(output_dir)}") from None
    if (output_dir / BEST).is_file():
        Checkpoint.load(output_dir / BEST)
    return checkpoint


def _spare(output_dir: Path) -> str:
    """How to go on without last.pth; empty without a sound best.pth."""
    best = output_dir / BEST
    try:
        epoch = Checkpoint.load(best).epoch
    except InputError:
        return ""
    return f"; {best} is a full state: copy it over {LAST} to go on after epoch {epoch}"


def check_output_dir(output_dir: Path, resume: bool | str, overwrite: bool) -> bool:
    """Whether the run in the folder is to be resumed: `resume`, or with 'auto' whether it holds a checkpoint.

    Raises InputError for a folder that cannot be written, or that holds a run without --resume or --overwrite.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other: one continues the run, the other discards it")
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"OUTPUT_DIR {output_dir} is a file; name a folder")
    if resume == "auto":
        resume = (output_dir / LAST).exists()
    found = run_files(output_dir)
    if found and not (resume or overwrite):
        raise InputError(
            f"OUTPUT_DIR {output_dir} holds a run ({', '.join(found)}): continue it with --resume, discard it with "
            "--overwrite, or name another folder"
        )
    check_writable(output_dir)
    return bool(resume)


def run_files(output_dir: Path) -> list[str]:
    """The files in the folder that a new run would lose, splits of a series included.

    CLIP-Memory or text features without a checkpoint do not count: their run was stopped before its first one.
    """
    found = [name for name in (*_RUN_FILES, SPLITS_TABLE) if (output_dir / name).exists()]
    found += [f"{path.parent.name}/{path.name}" for path in sorted(output_dir.glob(f"split[0-9]/{LAST}"))]
    return found if set(found) - set(BEFORE_TRAINING) else []


def check_writable(folder: Path, key: str = "OUTPUT_DIR") -> None:
    """Raise InputError, naming `key`, when the folder or the nearest existing one above it takes no temporary file."""
    try:
        nearest = next(above for above in (folder, *folder.absolute().parents) if above.exists())
        with tempfile.TemporaryFile(dir=nearest):
            return
    except OSError as error:
        raise InputError(f"{key} {folder} cannot be written ({error.strerror})") from None


def create_output_dir(output_dir: Path, key: str = "OUTPUT_DIR") -> None:
    """Make the folder; raises InputError, naming `key`, when the system refuses."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{key} {output_dir} cannot be made ({error.strerror})") from None


@contextmanager
def optional(path: Path, advice: str = "") -> Iterator[None]:
    """Within, a file that cannot be made is one warning: a run that has come to its end does not fail for its pictures.

    `advice` says how to make it again.
    """
    try:
        yield
    except (InputError, ImportError) as error:
        logger.warning("no %s: %s%s", path, error, advice and f"; {advice}")


def discard_run(output_dir: Path) -> None:
    """Remove the files of a run or of a series of splits, and nothing else."""
    splits = [split for split in sorted(output_dir.glob("split[0-9]")) if split.is_dir()]
    with ExitStack() as locks:
        for split in splits:  # none is touched while a run works in one
            locks.enter_context(lock(split))
        for split in splits:
            discard_run(split)
    reports = (METRICS, FEATURES, RANKS, SHEET, PAIRS, LABELS, SPLITS_TABLE, CURVES)
    for name in (*_RUN_FILES, *reports, TRAIN_LOG, TEST_LOG, CONFIG):
        (output_dir / name).unlink(missing_ok=True)
    for path in output_dir.glob(NONFINITE.format(epoch="*", step="*")):
        path.unlink()
    discard_page(output_dir)
    for name, pattern in ((ATTENTION, "query*.png"), (EVENTS, EVENT_FILES)):
        _discard_folder(output_dir / name, pattern)


def discard_page(output_dir: Path) -> None:
    """Remove the page of a run."""
    page = output_dir / PAGE
    _discard_folder(page.parent, page.name)


def _discard_folder(folder: Path, pattern: str) -> None:
    """Remove the files of this pattern, and the folder where nothing else lies there."""
    for path in folder.glob(pattern):
        path.unlink()
    with suppress(OSError):  # it is not there, or holds other files
        folder.rmdir()


def write_history(output_dir: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Rewrite history.csv, one row per finished epoch."""
    save_csv(output_dir / HISTORY, _HISTORY_COLUMNS, history)


def save_labels(out: Path, splits: ReIDSplits, of_training: bool = False) -> bool:
    """Write labels.json (what the numbers mean) where persons and cameras are free text; whether it was written.

    Only training writes the labels of training; a later test in the folder of the run keeps them.
    """
    path = out / LABELS
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["train_labels"] if (out / LAST).exists() else {}
    except (OSError, ValueError, KeyError, TypeError):
        kept = {}
    if not (splits.persons or kept):
        path.unlink(missing_ok=True)
        return False
    names = splits.names()
    save_json(path, names if of_training else names | {"train_labels": kept})
    return True


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The content of the folder's metrics.json; None unless it holds the scores of a whole test."""
    try:
        content = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        parts = [content, content["last"]] if "last" in content else [content]
        sound = all(isinstance(part[name], float) for part in parts for name in SCORES)
        sound &= all(name in content for name in ("num_query", "num_gallery", "protocol"))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return content if sound else None
