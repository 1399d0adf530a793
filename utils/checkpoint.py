"""The full state of a run as one file: tensors and plain Python only, so that it is read without running code."""

import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.errors import InputError, MissingFileError, NonFiniteLossError, printable
from utils.files import check_archive, save_archive
from utils.metrics import SCORES


@dataclass(frozen=True)
class Checkpoint:
    """Every field of last.pth and best.pth; those with a default are absent in files of earlier versions."""

    model: dict[str, Tensor]  # weights of TFCLIP
    optimizer: dict[str, Any]
    lr_schedule: dict[str, Any]
    scaler: dict[str, Any]  # of fp16; empty in other number types
    clip_memory: Tensor | None  # (C, E) what v_p is compared with; None without memory
    epoch: int  # finished epochs
    best: dict[str, Any]  # epoch and score of the best test so far; empty before the first
    history: list[dict[str, Any]]  # rows of history.csv
    untrained: dict[str, Any] | None  # scores before the first epoch, where asked for
    rng: dict[str, Any]  # random states
    config: str  # of the run, as YAML
    precision: str  # number type of the forward pass
    cameras: dict[str, Any] | None = None  # the data set's cameras and which of them training sees
    train_list: str = ""  # hash of the training tracklets
    step: int = 0  # finished steps of the unfinished epoch
    meters: dict[str, Any] | None = None  # sums of the losses over these steps
    rank_rng: list[dict[str, Any]] | None = None  # random states of the ranks after the first
    skipped: int = 0  # steps that were left out because their loss was not finite

    @classmethod
    def holds(cls, content: Mapping[str, Any]) -> bool:
        """Whether the content of a weight file is a checkpoint, complete or not."""
        return isinstance(content.get("model"), Mapping) and "epoch" in content

    def save(self, path: Path) -> None:
        """Write the file; the old one stays where the state is not finite or the system refuses.

        Raises NonFiniteLossError naming the first tensor with inf or nan, and InputError.
        """
        if broken := self.non_finite():
            raise NonFiniteLossError(
                f"after epoch {self.epoch}{f', step {self.step}' if self.step else ''} {_list(broken)}; {path} "
                f"{_what_stays(path)}; lower SOLVER.BASE_LR in a new run, or go on with SOLVER.AMP off or bf16"
            )
        save_archive(path, {field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read the file on the CPU, its checksums tested.

        Raises MissingFileError, or InputError when the file is broken or incomplete, when a field is not of its form,
        or when a tensor of the state is not finite.
        """
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist, so there is no run to resume; start it without --resume")
        try:
            check_archive(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
        except InputError:
            raise
        except Exception:  # torch.load raises many kinds for a broken file, with advice that does not help here
            raise InputError(f"checkpoint {path} cannot be read; it is truncated, damaged or no checkpoint") from None
        content = content if isinstance(content, dict) else {}
        lacking = [field.name for field in fields(cls) if field.default is MISSING and field.name not in content]
        if lacking:
            raise InputError(f"checkpoint {path} cannot be resumed: it lacks {', '.join(lacking)}")
        state = cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})
        for name, (form, is_sound) in _FORMS.items():
            if not _holds(is_sound, getattr(state, name)):
                raise InputError(f"checkpoint {path} cannot be resumed: field {name} is not {form}")
        rows = state.history
        if len(rows) != state.epoch or any(row["epoch"] != number for number, row in enumerate(rows, start=1)):
            raise InputError(f"checkpoint {path} cannot be resumed: field history has no row for each finished epoch")
        if state.lr_schedule["last_epoch"] != state.epoch or state.best.get("epoch", 0) > state.epoch:
            raise InputError(f"checkpoint {path} cannot be resumed: fields epoch, lr_schedule and best do not agree")
        if broken := state.non_finite():
            raise InputError(f"checkpoint {path} cannot be resumed: {_list(broken)}")
        return state

    def check_fits(
        self, source: Path, model: nn.Module, optimizer: Optimizer, memory_shape: tuple[int, ...] | None
    ) -> None:
        """Raise InputError, naming the file `source`, unless the state is one of this model and optimiser.

        `memory_shape` is (C, E), or None for a run without memory.
        """
        own = {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}
        held = {name: (tuple(value.shape), value.dtype) for name, value in self.model.items()}
        shape = None if self.clip_memory is None else tuple(self.clip_memory.shape)
        fault = ""
        if name := next((name for name in own | held if own.get(name) != held.get(name)), None):
            there, here = (f"{part[name][0]} {part[name][1]}" if name in part else "absent" for part in (held, own))
            fault = f"field model: {name} is {there} there, {here} in this run"
        elif shape != memory_shape:
            fault = f"field clip_memory: its shape is {shape}, {memory_shape} in this run"
        elif wrong := _optimizer_misfit(self.optimizer, optimizer):
            fault = f"field optimizer: {wrong}"
        elif self.lr_schedule["_last_lr"] != [group["lr"] for group in self.optimizer["param_groups"]]:
            fault = "field lr_schedule: its learning rates are not those of field optimizer"
        elif self.lr_schedule["base_lrs"] != [group["initial_lr"] for group in optimizer.param_groups]:
            fault = "field lr_schedule: it begins with other learning rates than this run"
        if fault:
            raise InputError(f"checkpoint {source} cannot be resumed: {printable(fault)}")

    def non_finite(self) -> list[str]:
        """The names of the tensors of model, optimiser and memory that hold inf or nan; one wait for the device."""
        tensors = {name: value for name, value in self._tensors() if value.is_floating_point() and value.numel()}
        # The largest absolute value of all is finite unless one is not; torch takes it in a few kernels.
        if math.isfinite(nn.utils.get_total_norm(tensors.values(), math.inf)):
            return []
        return [name for name, value in tensors.items() if not value.isfinite().all()]

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model.items()
        for number, state in self.optimizer["state"].items():
            yield from ((f"optimizer {number}.{name}", v) for name, v in state.items() if isinstance(v, Tensor))
        if self.clip_memory is not None:
            yield "clip_memory", self.clip_memory


def _list(broken: list[str]) -> str:
    more = f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
    return f"{printable(broken[0])}{more} of the state hold{'' if more else 's'} inf or nan"


def _what_stays(path: Path) -> str:
    """What a file holds that is not written now."""
    try:
        epoch = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["epoch"]
    except Exception:  # absent, or of another kind
        return "is not written"
    return f"keeps the state after epoch {epoch}"


def _optimizer_misfit(state: dict[str, Any], optimizer: Optimizer) -> str:
    """What in the state of an optimiser is not of this one; empty when all is."""
    groups, own_groups = state["param_groups"], optimizer.param_groups
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in own_groups]:
        return "its groups of weights have other sizes than those of this run"
    for number, (group, own) in enumerate(zip(groups, own_groups)):
        for name in sorted(set(own) - {"params", "lr", "fused", "foreach"}):
            # A switch may be newer than the file.
            there = group.get(name, own[name] if isinstance(own[name], (bool, type(None))) else None)
            if there != own[name]:
                return f"{name} of group {number} is {there!r}, {own[name]!r} in this run"
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    probe = type(optimizer)([weight])
    probe.step()
    names = set(probe.state[weight])
    weights = [weight for group in own_groups for weight in group["params"]]
    numbers = [number for group in groups for number in group["params"]]
    for number, weight in zip(numbers, weights):
        kept = state["state"].get(number)
        if kept is not None and set(kept) != names:
            return f"weight {number} has {', '.join(map(str, kept)) or 'nothing'} instead of {', '.join(sorted(names))}"
        for name, value in (kept or {}).items():
            shape, dtype = ((), torch.float32) if name == "step" else (tuple(weight.shape), weight.dtype)
            if not isinstance(value, Tensor) or (tuple(value.shape), value.dtype) != (shape, dtype):
                return f"{name} of weight {number} is no tensor {shape} {dtype}"
    return ""


def _holds(is_sound: Callable[[Any], bool], value: Any) -> bool:
    """Whether the value has the form; a value that the check itself stumbles over has not."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a tensor in the place of a mapping
            return bool(is_sound(value))
    except Exception:
        return False


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_tensor(value: Any) -> bool:
    """Whether the value is an ordinary tensor with content."""
    return isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"


def _is_plain(value: Any) -> bool:
    """Whether the value is plain Python that JSON can hold."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(part) for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, bool, int, float)


def _is_model(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and _is_tensor(v) for k, v in value.items()) and value


def _is_optimizer(value: Any) -> bool:
    groups, states = value["param_groups"], value["state"]
    numbers = [number for group in groups for number in group["params"]]
    return (
        isinstance(groups, list)
        and all(isinstance(group["params"], list) and _is_number(group["lr"]) for group in groups)
        and all(_is_plain(group) for group in groups)
        and all(map(_is_count, numbers))
        and len(set(numbers)) == len(numbers)
        and isinstance(states, dict)
        and all(number in numbers and isinstance(state, dict) for number, state in states.items())
        and all(isinstance(k, str) and (_is_tensor(v) or _is_number(v)) for s in states.values() for k, v in s.items())
    )


def _is_schedule(value: Any) -> bool:
    lrs, functions = value["base_lrs"], value["lr_lambdas"]
    switches = set(value) - {"base_lrs", "lr_lambdas", "_last_lr", "last_epoch", "_step_count"}
    return (
        _is_plain(value)
        and _is_count(value["last_epoch"])
        and _is_count(value["_step_count"])
        and all(isinstance(part, list) and len(part) == len(lrs) for part in (lrs, value["_last_lr"], functions))
        and all(map(_is_number, (*lrs, *value["_last_lr"])))
        and all(function is None or isinstance(function, dict) for function in functions)
        and all(isinstance(value[name], bool) for name in switches)
    )


def _is_scaler(value: Any) -> bool:
    names = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
    return value == {} or (_is_plain(value) and all(_is_number(value[name]) and value[name] >= 0 for name in names))


def _is_memory(value: Any) -> bool:
    return value is None or (_is_tensor(value) and value.dtype == torch.float32 and value.dim() == 2)


def _is_best(value: Any) -> bool:
    return value == {} or (_is_plain(value) and _is_count(value["epoch"]) and _is_number(value["score"]))


def _is_history(value: Any) -> bool:
    rows = isinstance(value, list) and all(isinstance(row, dict) and _is_count(row["epoch"]) for row in value)
    return rows and all(isinstance(k, str) and _is_number(v) for row in value for k, v in row.items())


def _is_untrained(value: Any) -> bool:
    if value is None:
        return True
    intervals = value.get("ci95", {}).items()
    return (
        _is_plain(value)
        and all(isinstance(value.get(name, {}), dict) for name in ("ci95", "protocol"))
        and all(_is_number(part) for name, part in value.items() if name not in ("ci95", "protocol"))
        and "mAP" in value
        and all(name in SCORES and all(map(_is_number, ends)) and len(ends) == 2 for name, ends in intervals)
    )


def _is_rng(value: Any) -> bool:
    """Whether the generators take the states; those that try are thrown away."""
    version, internal, gauss = value["python"]
    random.Random().setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = value["numpy"]
    np.random.RandomState().set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.Generator().set_state(value["torch"])
    cuda = value["cuda"]
    return (
        (gauss is None or _is_number(gauss))
        and keys.dtype == torch.int64
        and _is_count(position)
        and position <= len(keys)  # NumPy would read beyond them
        and has_gauss in (0, 1)
        and type(cached) is float
        and isinstance(cuda, list)
        and all(_is_tensor(state) and state.dtype == torch.uint8 and state.dim() == 1 for state in cuda)
    )


def _is_config(value: Any) -> bool:
    sections = yaml.safe_load(value) if isinstance(value, str) else None
    return isinstance(sections, dict) and all(isinstance(name, str) for name in sections)


def _is_cameras(value: Any) -> bool:
    if value is None:
        return True
    names, trained = value["names"], value["trained"]
    return (
        isinstance(value["dataset"], str)
        and isinstance(names, (list, tuple))
        and all(isinstance(name, str) for name in names)
        and isinstance(trained, (list, tuple))
        and all(_is_count(camera) and camera < len(names) for camera in trained)
    )


def _is_meters(value: Any) -> bool:
    if value is None:
        return True
    names, sums = value["names"], value["sums"]
    return (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and (sums is None or (_is_tensor(sums) and sums.dtype == torch.float64 and sums.shape == (len(names),)))
        and _is_count(value["count"])
        and _is_number(value["seconds"])
    )


_FORMS: dict[str, tuple[str, Callable[[Any], bool]]] = {  # field -> what it is, whether a value is that
    "model": ("a mapping of names to tensors", _is_model),
    "optimizer": ("the state of an optimiser of torch", _is_optimizer),
    "lr_schedule": ("the state of a learning-rate schedule of torch", _is_schedule),
    "scaler": ("the state of a gradient scaler of torch", _is_scaler),
    "clip_memory": ("a matrix of real numbers", _is_memory),
    "epoch": ("a number of finished epochs", _is_count),
    "best": ("an epoch with its score", _is_best),
    "history": ("a list of rows of numbers", _is_history),
    "untrained": ("a set of scores", _is_untrained),
    "rng": ("the random states of Python, NumPy and torch", _is_rng),
    "config": ("a config as YAML", _is_config),
    "precision": ("the name of a number type", lambda value: isinstance(value, str)),
    "cameras": ("a list of cameras", _is_cameras),
    "train_list": ("a hash of tracklets", lambda value: isinstance(value, str)),
    "step": ("a number of steps", _is_count),
    "meters": ("the sums of the losses of some steps", _is_meters),
    "skipped": ("a number of steps", _is_count),
    "rank_rng": ("a list of random states", lambda v: v is None or (isinstance(v, list) and all(map(_is_rng, v)))),
}
