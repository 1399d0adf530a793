"""The device of `make gpu-check`, and the table that it ends with."""

import os

import pytest
import torch

# TFCLIP_GPU_CHECK_DEVICE=cpu runs the same checks at a tiny size without a GPU.
DEVICE = torch.device(os.environ.get("TFCLIP_GPU_CHECK_DEVICE", "cuda"))
ON_GPU = DEVICE.type == "cuda"
_ROW, _TEXT = "gpu-check row", "gpu-check text"


@pytest.fixture
def row(record_property):
    """row(figure, limit): what a check found and what it was held against, a line of the table."""
    return lambda figure, limit: record_property(_ROW, (str(figure), str(limit)))


@pytest.fixture
def below_the_table(record_property):
    """Text that is printed below the table."""
    return lambda text: record_property(_TEXT, text)


def pytest_terminal_summary(terminalreporter) -> None:
    """Check, result, figure, limit of each test that was not only skipped for want of a GPU."""
    lines, texts = [], []
    for result in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(result):
            if "test_gpu_check.py::" not in report.nodeid or (report.when != "call" and result == "passed"):
                continue
            rows = [value for name, value in report.user_properties if name == _ROW]
            if not rows and result == "skipped":
                rows = [(report.longrepr[2].removeprefix("Skipped: "), "")]
            check = report.nodeid.partition("::test_")[2].replace("_", " ")
            lines += [(check, result, figure, limit) for figure, limit in rows or [("", "")]]
            texts += [value for name, value in report.user_properties if name == _TEXT]
    if any(result != "skipped" for _, result, *_ in lines):
        name = torch.cuda.get_device_name() if ON_GPU and torch.cuda.is_available() else str(DEVICE)
        terminalreporter.section(f"gpu-check on {name}, torch {torch.__version__}")
        for cells in [("check", "result", "figure", "limit"), ("---",) * 4, *lines]:
            terminalreporter.write_line(f"| {' | '.join(cells)} |")
        for text in texts:
            terminalreporter.write_line(text)
