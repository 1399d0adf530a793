"""Weight files, checkpoints and packs: read, or one line that names the file. Each runs in a child process."""

import io
import random
import zipfile

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from datasets.frames.store import FrameStore, write_store
from model.weights import Cameras, load_weights, read_weight_file
from tests.conftest import ROOT, tiny_model
from tests.fuzz.conftest import accepts
from tests.fuzz.mutations import altered_bytes, odd_values
from tests.model.weights.test_hostile_files import MODULE, tensor
from tests.model.weights.test_weights import Clip, ClipTower, narrow_model
from tests.reference import published_state
from utils.checkpoint import Checkpoint

HERE = Cameras("MARS", ("1", "2", "3"))
DTYPES = [torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64, torch.uint8]
odd_tensors = st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype),
    st.lists(st.integers(0, 5), max_size=4), st.sampled_from(DTYPES),
)  # fmt: skip
unusual = st.sampled_from([torch.eye(2).to_sparse(), torch.zeros(1).expand(10**9), torch.zeros(2, device="meta")])
odd_things = st.one_of(odd_tensors, odd_values, unusual)


def saved(content) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def clip() -> dict[str, bytes]:
    """The same small weights in every kind of file."""
    torch.manual_seed(0)
    model, scripted = Clip(width=64), io.BytesIO()
    torch.jit.save(torch.jit.script(model.half()), scripted)
    old = io.BytesIO()
    torch.save(model.state_dict(), old, _use_new_zipfile_serialization=False)
    return {"torchscript": scripted.getvalue(), "zip": saved(model.state_dict()), "legacy": old.getvalue()}


def weight_target(fuzz, inputs: int, path, strategy, model=None) -> None:
    """Write each drawn content to `path` and load it into a model, by default the tiny one."""
    model = model or tiny_model(num_cameras=3, seed=0)

    def work(content: bytes) -> bool:
        path.write_bytes(content)
        return accepts(lambda: load_weights(model, path, here=HERE), names=(str(path),))

    fuzz(inputs, strategy, work, child=True)


def altered_archive(content: bytes) -> st.SearchStrategy[bytes]:
    """A zip whose members were altered and then packed anew, so that their checksums hold."""

    @st.composite
    def strategy(draw) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
            names = old.namelist()
            pickles = [name for name in names if name.endswith(".pkl")]
            chosen = {draw(st.sampled_from(pickles)), draw(st.sampled_from(names))}
            for name in names:
                member = old.read(name)
                new.writestr(name, draw(altered_bytes(member, 2)) if name in chosen and member else member)
        return buffer.getvalue()

    return strategy()


@pytest.mark.parametrize("kind", ["torchscript", "zip", "legacy"])
def test_bytes_of_weight_files(fuzz, tmp_path, clip, kind):
    weight_target(fuzz, 25, tmp_path / "weight.pt", altered_bytes(clip[kind]))


@pytest.mark.parametrize("kind", ["torchscript", "zip"])
def test_members_of_weight_files(fuzz, tmp_path, clip, kind):
    weight_target(fuzz, 25, tmp_path / "weight.pt", altered_archive(clip[kind]))


def test_pickles_of_modules(fuzz, tmp_path):
    """Opcodes in any order, after the start of a module."""
    codes = st.sampled_from([
        *(bytes([code]) for code in b".()]}02RbsutQNae\x81\x85\x86\x88"), b"h\x01", b"q\x01", b"K\x00",
        b"J\xff\xff\xff\x7f", b"X\x01\x00\x00\x00a", b"c__torch__\nM\n", b"ctorch\nFloatStorage\n", b"cos\nsystem\n",
        b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"\x96\0\0\0\xff\0\0\0\0", tensor(4, 4, 1),
    ])  # fmt: skip

    def built(parts) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a/data.pkl", MODULE + b"".join(parts) + b"b.")
            archive.writestr("a/code/x.py", "")
            archive.writestr("a/data/0", bytes(16))
        return buffer.getvalue()

    weight_target(fuzz, 40, tmp_path / "weight.pt", st.lists(codes, max_size=30).map(built))


def test_safetensors_files(fuzz, tmp_path):
    path = tmp_path / "weight.safetensors"
    save_file({f"visual.{name}": value for name, value in ClipTower().state_dict().items()}, path)
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    head = altered_bytes(content[:start]).map(lambda head: head + content[start:])
    weight_target(fuzz, 30, path, st.one_of(head, altered_bytes(content)))


def altered_state(state: dict) -> st.SearchStrategy[bytes]:
    """A file of named weights, some of them replaced, renamed or gone."""

    @st.composite
    def strategy(draw) -> bytes:
        weights = dict(state)
        for _ in range(draw(st.integers(1, 3))):
            name = draw(st.sampled_from(sorted(weights, key=str) or ["x"]))
            kind = draw(st.sampled_from(["drop", "rename", "replace", "shape", "wrap"]))
            value = weights.pop(name, None)
            if kind == "rename":
                ends = st.sampled_from(
                    [f"{name}.weight", f"module.{name}", str(name).upper(), "visual.proj", "head.weight"]
                )
                weights[draw(st.one_of(st.text(max_size=12), st.integers(), ends))] = value
            elif kind == "replace":
                weights[name] = draw(odd_things)
            elif kind == "shape" and torch.is_tensor(value) and value.numel() < 10**6 and value.is_contiguous():
                weights[name] = draw(
                    st.sampled_from([value[None], value.flatten(), value.flatten()[:1], value.double()])
                )
            elif kind == "wrap":
                weights = {
                    **weights,
                    name: value,
                    draw(st.sampled_from(["model", "state_dict", "epoch"])): draw(odd_things),
                }
        return saved(weights)

    return strategy()


@pytest.mark.parametrize("kind", ["openai", "published", "timm"])
def test_weights_by_name(fuzz, tmp_path, kind):
    model = None
    if kind == "published":
        model, state = narrow_model(), published_state(5, 3, 64, 32, narrow=True)
    else:
        state = {f"visual.{name}": value for name, value in ClipTower().state_dict().items()}
    if kind == "timm":
        square = tiny_model(seed=0, INPUT__SIZE_TRAIN="[32,32]", INPUT__SIZE_TEST="[32,32]")  # as timm keeps them
        encoder = square.state_dict()
        state = {name.removeprefix("encoder.vit."): value for name, value in encoder.items() if "encoder.vit" in name}
    weight_target(fuzz, 20, tmp_path / "weight.pth", altered_state(state), model)


def test_checkpoints_by_name(fuzz, tmp_path):
    cameras = {"dataset": "MARS", "names": ("1", "2", "3"), "trained": (0, 1, 2)}
    model = tiny_model(seed=0).state_dict()
    whole = {"model": model, "epoch": 3, "cameras": cameras, "config": ""}
    inner = st.one_of(
        altered_state(model).map(lambda content: whole | {"model": torch.load(io.BytesIO(content), weights_only=True)}),
        st.tuples(st.sampled_from(sorted(whole)), odd_things).map(lambda pair: whole | {pair[0]: pair[1]}),
        st.tuples(st.sampled_from(sorted(cameras)), odd_values).map(
            lambda pair: whole | {"cameras": cameras | {pair[0]: pair[1]}}
        ),
    )  # fmt: skip
    weight_target(fuzz, 25, tmp_path / "best.pth", inner.map(saved))


def test_bytes_of_checkpoints(fuzz, tmp_path):
    """last.pth of a run, as --resume reads it."""
    content = (ROOT / "tests" / "data" / "earlier_run" / "last.pth").read_bytes()
    path = tmp_path / "last.pth"

    def work(content: bytes) -> bool:
        path.write_bytes(content)
        resumed = accepts(Checkpoint.load, path, names=(str(path),))
        return accepts(read_weight_file, path, names=(str(path),)) or resumed

    fuzz(25, st.one_of(altered_bytes(content), altered_archive(content)), work, child=True)


def test_fields_of_checkpoints(fuzz, tmp_path):
    content = torch.load(ROOT / "tests" / "data" / "earlier_run" / "last.pth", weights_only=True)
    path = tmp_path / "last.pth"

    def work(field) -> bool:
        name, value = field
        torch.save(content | {name: value}, path)
        return accepts(Checkpoint.load, path, names=(str(path),))

    fuzz(20, st.tuples(st.sampled_from(sorted(content)), odd_values), work, child=True)


def test_packs(fuzz, tmp_path):
    path, rng = tmp_path / "set.pack", random.Random(0)
    frames = [(f"person/{number:03d}.jpg", rng.randbytes(rng.randrange(1, 9_000))) for number in range(40)]
    write_store(path, frames)
    content = path.read_bytes()

    def work(content: bytes) -> bool:
        path.write_bytes(content)

        def read() -> None:
            store = FrameStore(str(path))
            for name, whole in frames:
                assert bytes(store.content(name)) == whole  # what is not refused is right
            assert all(frame is not None for _, frame in store.frames())

        return accepts(read, names=(str(path),))

    fuzz(25, altered_bytes(content), work, child=True)
