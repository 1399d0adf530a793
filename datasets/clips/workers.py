"""Loader processes under watch: one that was killed or stopped ends the run in one line, and none outlives it."""

import signal
import sys
import threading
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from utils.errors import LostProcessError

_LOOK_SECONDS = 1.0  # of waiting for a batch between two looks at the processes
_STOPPED_LOOKS = 10  # in turn that find a process stopped, before it is given up
_PAUSE_SECONDS = 4.0  # a wait this much longer than it was to be: this process itself stood still


class WatchedWorkers(_MultiProcessingDataLoaderIter):
    """torch's batches from loader processes; while it waits for one, it looks at the processes.

    Raises LostProcessError when one has ended, or has been stopped for some seconds while this process was not (where
    there is /proc), but KeyboardInterrupt when the whole run is to stop. A process that is slow is waited for.
    """

    def __init__(self, loader: DataLoader) -> None:
        self._looks: dict[int, int] = {}  # process id -> looks in turn that found it stopped
        with _ChildSignalKept():
            super().__init__(loader)

    def _get_data(self) -> Any:
        try:
            return super()._get_data()
        except LostProcessError:
            raise
        except Exception:
            connection.wait([w.sentinel for w in self._workers], timeout=_LOOK_SECONDS)  # what it sent may break first
            ended = [w for w in self._workers if not w.is_alive()]
            if ended:
                self._give_up(f"{_named(ended)} {_how_it_ended(ended[0].exitcode or 0)}")
            raise

    def _try_get_data(self, timeout: float = _LOOK_SECONDS) -> tuple[bool, Any]:
        start = monotonic()
        arrived, data = super()._try_get_data(min(timeout, _LOOK_SECONDS))
        if not arrived:
            self._look(monotonic() - start)
        return arrived, data

    def _look(self, waited: float) -> None:
        if waited > _LOOK_SECONDS + _PAUSE_SECONDS:
            self._looks.clear()
            return
        self._looks = {w.pid: self._looks.get(w.pid, 0) + 1 for w in self._workers if _is_stopped(w)}
        stopped = [w for w in self._workers if self._looks.get(w.pid, 0) >= _STOPPED_LOOKS]
        if stopped:
            self._give_up(f"{_named(stopped)} was stopped (SIGSTOP) and did not go on")

    def _give_up(self, what: str) -> NoReturn:
        """End all processes and raise; nothing is sent to them, as a killed one may hold the locks of the queues."""
        for worker in self._workers:
            worker.kill()  # SIGKILL also ends one that is stopped
        for worker in self._workers:
            worker.join()
        self._shutdown = True
        if self._pin_memory:
            self._pin_memory_thread_done_event.set()
        for queue in (*self._index_queues, self._worker_result_queue):
            queue.cancel_join_thread()
        raise LostProcessError(
            f"{what}; start the command again (a training with --resume); if memory is short, lower "
            "DATALOADER.NUM_WORKERS or give more memory, also shared memory (/dev/shm)"
        ) from None

    def _shutdown_workers(self) -> None:
        if not sys.is_finalizing():
            for worker in getattr(self, "_workers", ()):
                if worker.is_alive() and _is_stopped(worker):
                    worker.kill()  # it would not hear that it is to end
        super()._shutdown_workers()


class _ChildSignalKept:
    """Takes back torch's handler of SIGCHLD, which would raise in the middle of a step or of a save."""

    def __enter__(self) -> None:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self.handler = signal.getsignal(signal.SIGCHLD) if in_main_thread and hasattr(signal, "SIGCHLD") else None

    def __exit__(self, *_: object) -> None:
        if self.handler is not None and signal.getsignal(signal.SIGCHLD) is not self.handler:
            signal.signal(signal.SIGCHLD, self.handler)


def _is_stopped(worker: BaseProcess) -> bool:
    """Whether the system says so; False where it has no /proc."""
    try:
        text = Path(f"/proc/{worker.pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "T"


def _named(workers: list[BaseProcess]) -> str:
    first, *others = workers
    return f"loader process {first.pid}" + (f" (and {len(others)} more)" if others else "")


def _how_it_ended(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was ended by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")
