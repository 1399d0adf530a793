"""How the fuzz targets run: how many inputs each gets, in this process or in a child, and the table of what happened.

FUZZ_TIMES (1) multiplies the inputs of each target. At 1 they are the same ones each time; above, new ones.
"""

import multiprocessing
import os
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from utils.errors import InputError

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
HANG, MEMORY = 60, 2**30  # seconds, and bytes beside what the child held before: more is a fault
settings.register_profile(
    "fuzz",
    derandomize=TIMES == 1,
    database=None,
    deadline=None,
    print_blob=TIMES > 1,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every fuzz target is slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter) -> None:
    """The table, from all processes."""
    reports = [report for group in terminalreporter.stats.values() for report in group if hasattr(report, "nodeid")]
    rows = sorted({row for report in reports for name, row in getattr(report, "user_properties", ()) if name == "fuzz"})
    if not rows:
        return
    terminalreporter.section("fuzz")
    terminalreporter.write_line(f"{'target':<34}{'inputs':>9}{'refused':>9}{'accepted':>9}{'seconds':>9}")
    for name, *numbers in [*rows, ("all", *map(sum, zip(*(row[1:] for row in rows))))]:
        terminalreporter.write_line(f"{name:<34}" + "".join(f"{number:>9,.0f}" for number in numbers))


def accepts(read: Callable, *arguments: Any, names: tuple[str, ...]) -> bool:
    """True when `read` succeeds, False for an InputError of one line that holds one of `names`."""
    try:
        read(*arguments)
    except InputError as error:
        line = str(error)
        assert line.isprintable() and any(name in line for name in names), line
        return False
    return True


@dataclass(frozen=True)
class Drawn:
    """An input, of which a failure prints only the beginning."""

    value: Any

    def __repr__(self) -> str:
        return f"{self.value!r:.300}"


class Child:
    """Runs `work` (input -> accepted) in a forked process, where a crash of the interpreter is seen and survived."""

    def __init__(self, work: Callable[[Any], bool]) -> None:
        self.work = work
        self.process = None

    def __call__(self, value: Any) -> bool:
        """What `work` returns; raises AssertionError for its errors, its death, a hang or too much memory."""
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("fork")
            self.pipe, there = context.Pipe()
            self.process = context.Process(target=self._serve, args=(there,), daemon=True)
            self.process.start()
            there.close()
        try:
            self.pipe.send(value)
            if not self.pipe.poll(HANG):
                self.close()
                raise AssertionError(f"no answer in {HANG} s")
            accepted, fault, memory = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise AssertionError(f"the process ended with {self.process.exitcode}") from None
        if memory > MEMORY:
            self.close()  # its highest use never falls
            raise AssertionError(f"it took {memory / 2**30:.1f} GiB")
        assert not fault, fault
        return accepted

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()

    def _serve(self, pipe) -> None:
        def highest() -> int:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        self.pipe.close()  # the parent's end: so that the child hears when the parent has ended
        before = highest()
        while True:
            try:
                value = pipe.recv()
            except EOFError:
                return
            try:
                accepted, fault = self.work(value), ""
            except BaseException as error:
                accepted, fault = False, f"{type(error).__name__}: {error}"
            pipe.send((accepted, fault, highest() - before))


@pytest.fixture
def fuzz(request, record_property, tmp_path_factory):
    """fuzz(inputs, strategy, work, child=False): feed `work` (input -> accepted) with drawn inputs, and count."""

    def run(inputs: int, strategy: SearchStrategy, work: Callable[[Any], bool], child: bool = False) -> None:
        counts: Counter[bool] = Counter()
        attempt = Child(work) if child else work

        @settings(settings.get_profile("fuzz"), max_examples=inputs * TIMES)
        @given(strategy.map(Drawn))
        def each(drawn):
            try:
                counts[attempt(drawn.value)] += 1
            except Exception as error:
                if not isinstance(drawn.value, bytes):
                    raise
                kept.write_bytes(drawn.value)
                raise AssertionError(f"{type(error).__name__}: {error} (the input: {kept})") from error

        kept = tmp_path_factory.mktemp("found") / "input"
        start = time.perf_counter()
        try:
            each()
        finally:
            if child:
                attempt.close()
            name = request.node.name.removeprefix("test_")
            seconds = time.perf_counter() - start
            record_property("fuzz", (name, counts.total(), counts[False], counts[True], seconds))
        assert counts.total() >= inputs * TIMES // 2  # hypothesis stops early where the strategy has no more

    return run
