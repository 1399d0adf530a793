"""A full memory ends in one line with what to change."""

import re

import numpy as np
import pytest
import torch

from model.tfclip import TFCLIP
from processor.run import train_main
from tests.conftest import one_error
from tests.refusals import refused
from utils.environment import PASS_NEEDS_LESS, TRAINING_NEEDS_LESS, explain_out_of_memory, out_of_memory_line

# As torch 2.11 to 2.15 write it.
FULL = (
    "CUDA out of memory. Tried to allocate 20.50 GiB. GPU 1 has a total capacity of 139.81 GiB of which 9.25 GiB is "
    "free. "
    "Including non-PyTorch memory, this process has 130.55 GiB memory in use. Of the allocated memory 128.00 GiB is "
    "allocated by PyTorch, and 1.91 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is "
    "large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)


def within(work, advice=TRAINING_NEEDS_LESS, frames=32):
    with explain_out_of_memory(advice, frames):
        return work()


def raising(error):
    def work():
        raise error

    return work


def test_the_line_of_a_gpu():
    error = torch.OutOfMemoryError(FULL)
    assert out_of_memory_line(error, TRAINING_NEEDS_LESS, 35 * 2**20) == (
        "the memory of GPU 1 is full: 20.50 GiB more were asked for, 9.25 GiB of 139.81 GiB were free, the pass held "
        "35.0 MiB per frame; raise SOLVER.ACCUM_STEPS, set MODEL.GRAD_CHECKPOINT True, or lower SOLVER.IMS_PER_BATCH"
    )
    small = FULL.replace("20.50 GiB", "20.00 MiB").replace("9.25 GiB is", "512.00 KiB is")
    line = out_of_memory_line(torch.OutOfMemoryError(small), PASS_NEEDS_LESS)
    assert "20.0 MiB more were asked for, 0.5 MiB of 139.81 GiB were free; lower TEST.FRAMES_PER_BATCH" in line


@pytest.mark.parametrize("text", ["CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
                                  "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                                  "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"])  # fmt: skip
def test_libraries_of_a_gpu_say_less(text):
    refused(f"^the memory of the GPU is full; {PASS_NEEDS_LESS}$", within, raising(RuntimeError(text)), PASS_NEEDS_LESS)


def test_more_memory_than_the_machine_has(monkeypatch):
    """torch's and numpy's own errors: an exbibyte is refused everywhere."""
    for work in (lambda: torch.empty(2**60, dtype=torch.uint8), lambda: np.empty(2**60, dtype=np.uint8)):
        refused(
            r"^the memory of the machine is full: 1,073,741,824\.00 GiB more were asked for, it has [\d.,]+ GiB; "
            + re.escape(TRAINING_NEEDS_LESS) + "$",
            within, work,
        )  # fmt: skip
    monkeypatch.delattr("os.sysconf")
    refused(f"^the memory of the machine is full; {PASS_NEEDS_LESS}$", within, raising(MemoryError()), PASS_NEEDS_LESS)


def test_what_the_pass_held_is_said_per_frame(monkeypatch):
    allocated = iter((2 * 2**30, 6 * 2**30))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: next(allocated))
    refused("the pass held 128.0 MiB per frame; ", within, raising(torch.OutOfMemoryError(FULL)))


def test_other_errors_and_results_pass():
    assert within(lambda: 3) == 3
    for error in (RuntimeError("shape mismatch"), KeyError("memory")):
        with pytest.raises(type(error)):
            within(raising(error))


@pytest.mark.parametrize(("method", "advice"), [("classify", TRAINING_NEEDS_LESS), ("embed", PASS_NEEDS_LESS),
                                                ("encode_memory", PASS_NEEDS_LESS)])  # fmt: skip
def test_training_tests_and_the_memory_pass_say_what_to_change(method, advice, tiny_argv, caplog, monkeypatch):
    monkeypatch.setattr(TFCLIP, method, lambda *_args: torch.empty(2**60, dtype=torch.uint8))
    line = one_error(caplog, train_main, tiny_argv())
    assert line.startswith("error: the memory of the machine is full: ") and line.endswith(f"; {advice}")
