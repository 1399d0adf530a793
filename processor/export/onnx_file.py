"""The ONNX file: written by torch's exporter, run by onnxruntime."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import SymInt
from torch.export import ExportedProgram

from processor.export.check import Run, TrackletBatch
from processor.export.wrapper import AXES, OUTPUT
from utils.errors import InputError

_MOST_BYTES = 2**31 - 2**24  # protobuf takes 2 GiB; the graph itself needs some of it
_ERRORS_ONLY = 3  # onnxruntime's level of messages


def save(path: Path, program: ExportedProgram, facts: Mapping[str, str], opset: int) -> None:
    """Write the program with its metadata as one file; raises InputError where ONNX has no room for the weights."""
    size = sum(weight.nbytes for weight in program.state_dict.values())
    if size > _MOST_BYTES:
        raise InputError(
            f"an ONNX file holds 2 GiB at most, and these weights have {size / 2**30:.1f} GiB: "
            "take --half, or --format pt2, which has no such limit"
        )
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in AXES]
    # An axis that is not in the graph as a symbol has one size only.
    axes = [
        {axis: name for axis, name in enumerate(AXES[node.name]) if isinstance(node.meta["val"].shape[axis], SymInt)}
        for node in inputs
    ]
    exported = torch.onnx.export(
        program, input_names=[node.name for node in inputs], output_names=[OUTPUT], dynamic_shapes=tuple(axes),
        opset_version=opset, dynamo=True, verbose=False,
    )  # fmt: skip
    found = exported.model.opset_imports[""]
    if found != opset:
        raise InputError(f"torch {torch.__version__} wrote opset {found} where {opset} was asked for; name another")
    exported.model.metadata_props.update(facts)
    exported.save(path, external_data=False)


def load(path: Path) -> Run:
    """What onnxruntime computes of the file on the CPU, with as many threads as torch has.

    Raises InputError where the installed onnxruntime cannot run it, as with an opset that it does not know.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, without a common base
        reason = " ".join(str(error).split())[:200]
        advice = "; take a lower --opset, or a newer onnxruntime" if re.search(r"\bopset \d", reason, re.I) else ""
        raise InputError(f"onnxruntime {onnxruntime.__version__} cannot run the file ({reason}){advice}") from None
    names = [value.name for value in session.get_inputs()]

    def run(batch: TrackletBatch) -> NDArray[np.float32]:
        inputs = batch._asdict()
        return session.run([OUTPUT], {name: inputs[name] for name in names})[0]

    return run
