"""A GPU that computes shapes, types and devices but no values: torch's FakeTensorMode with device cuda.

A tensor on the wrong device raises there, and so does whatever needs a value on the host (`item`, `nonzero`, `if`).
What FakeTensorMode lets pass, `Watch` raises: copies that make the host wait, and CPU tensors as indices.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
# Operations that have no deterministic form on a GPU, from the text of torch.use_deterministic_algorithms.
NO_DETERMINISTIC_FORM = frozenset(
    "avg_pool3d_backward _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward adaptive_max_pool2d_backward "
    "fractional_max_pool2d_backward fractional_max_pool3d_backward max_unpool2d max_unpool3d "
    "upsample_linear1d_backward upsample_bilinear2d_backward upsample_bicubic2d_backward upsample_trilinear3d_backward "
    "_upsample_bilinear2d_aa_backward _upsample_bicubic2d_aa_backward "
    "reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward "
    "nll_loss2d_forward nll_loss2d_backward _ctc_loss_backward put put_ histc bincount median nanmedian "
    "grid_sampler_2d_backward grid_sampler_3d_backward scatter_reduce scatter_reduce_".split()
)


class Watch(TorchDispatchMode):
    """Raises AssertionError for a CPU tensor beside one on the GPU and, without `copies`, for copies that wait.

    A CPU scalar may stand beside tensors of a GPU, as on a real one. With `deterministic` operations of
    NO_DETERMINISTIC_FORM raise too. `seen` holds the names of all operations.
    """

    def __init__(self, copies: bool = False, deterministic: bool = True) -> None:
        super().__init__()
        self.copies, self.deterministic = copies, deterministic
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        self.seen.add(name)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        on_gpu = any(tensor.device.type == "cuda" for tensor in given)
        if name in ("_to_copy", "copy_"):
            moved = {t.device.type for t in [*given, result]} == {"cpu", "cuda"}
            waits = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
            assert self.copies or not (moved and waits), f"{name}: the host waits for a copy from or to the GPU"
        elif on_gpu:
            assert all(t.device.type == "cuda" or not t.dim() for t in given), f"{name}: a CPU tensor on the GPU"
        if self.deterministic and on_gpu:
            assert name not in NO_DETERMINISTIC_FORM, f"{name} has no deterministic form on a GPU"
        return result


class FakeGpu:
    """Builds tensors and modules on the GPU that is not there, and runs code on it."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device = GPU) -> Tensor:
        """A tensor of no values."""
        return FakeTensor(self.mode, torch.empty(shape, dtype=dtype, device="meta"), device)

    def module(self, build: Callable[[], nn.Module]) -> nn.Module:
        """What `build` makes, with weights and buffers on the GPU."""
        with torch.device("meta"):
            whole = build()
        for part in whole.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    part._parameters[name] = nn.Parameter(self.tensor(*weight.shape), weight.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = self.tensor(*buffer.shape, dtype=buffer.dtype)
        return whole

    @contextmanager
    def running(self, watch: Watch | None = None, reads: bool = False) -> Iterator[Watch]:
        """Within, tensors are those of this GPU. `reads` lets the host read 0-d truth values and lists, which it waits
        for; every truth value is True then, and every number 1.
        """
        watch = watch or Watch()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
            patch.setattr(torch.cuda, "is_bf16_supported", lambda *_args, **_kwargs: True)
            patch.setattr(torch.cuda, "get_rng_state", lambda *_args: torch.empty(0))
            patch.setattr(torch.cuda, "set_rng_state", lambda *_args: None)
            patch.setattr(torch.autograd, "backward", backward_by_nodes)
            patch.setattr(torch._C, "_current_graph_task_id", lambda: id(self))  # recomputed blocks ask for it
            if reads:
                patch.setattr(FakeTensor, "__bool__", lambda _tensor: True, raising=False)
                patch.setattr(FakeTensor, "tolist", lambda tensor: [1.0] * tensor.numel())
            with self.mode, watch:
                yield watch


def backward_by_nodes(tensors: Tensor | Sequence[Tensor], grad_tensors=None, *_args, **_kwargs) -> None:
    """torch.autograd.backward node by node: torch's own engine asks the driver for streams, and there is none."""
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    grads = [grad_tensors] if isinstance(grad_tensors, Tensor) else list(grad_tensors or [None])
    waits_for, found = {}, [tensor.grad_fn for tensor in tensors]  # node -> how many of its users are still to come
    seen = set(found)
    for node in found:
        for child, _ in node.next_functions:
            if child is not None:
                waits_for[child] = waits_for.get(child, 0) + 1
                if child not in seen:
                    seen.add(child)
                    found.append(child)
    arrived = {node: {} for node in found}  # the gradients of a node's outputs, by their number

    def send(node, number: int, grad: Tensor | None) -> None:
        if grad is not None:
            meta = node._input_metadata[number]
            assert grad.device == meta.device, f"a gradient on {grad.device} for {node.name()} on {meta.device}"
            grad = grad.sum_to_size(meta.shape).to(meta.dtype)
            earlier = arrived[node].get(number)
            arrived[node][number] = grad if earlier is None else earlier + grad

    with torch.no_grad():
        for tensor, grad in zip(tensors, grads):
            send(tensor.grad_fn, tensor.output_nr, torch.ones_like(tensor) if grad is None else grad)
        ready = [node for node in dict.fromkeys(tensor.grad_fn for tensor in tensors) if not waits_for.get(node)]
        while ready:
            node = ready.pop()
            given = arrived.pop(node)
            if hasattr(node, "variable"):  # the end of the graph: a weight
                if given:
                    weight = node.variable
                    weight.grad = given[0] if weight.grad is None else weight.grad + given[0]
                continue
            results = [None] * len(node.next_functions)
            if given:
                results = node(*(given.get(number) for number in range(len(node._input_metadata))))
            results = results if isinstance(results, (tuple, list)) else (results,)
            for (child, number), grad in zip(node.next_functions, results):
                if child is not None:
                    send(child, number, grad)
                    waits_for[child] -= 1
                    if not waits_for[child]:
                        ready.append(child)
