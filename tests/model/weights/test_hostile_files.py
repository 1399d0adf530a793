"""Weight files that are damaged or made to do harm: one line that names the file, soon and in little memory."""

import os
import pickle
import resource
import struct
import time
import zipfile

import pytest
import torch

from model.weights import load_weights, read_weight_file
from tests.conftest import SHARED, tiny_model
from tests.model.weights.test_weights import Clip, checkpoint_of
from tests.refusals import refused

MEMORY = 3 * 2**26  # bytes, that a refusal may take beside what the tests hold already


@pytest.fixture
def cheap():
    """Fails a test that took more memory or time than a refusal needs."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY
    assert time.perf_counter() - start < 20


@pytest.fixture
def scripted(tmp_path):
    """A TorchScript file as OpenAI's, and a function that writes another one with some members changed."""
    path = tmp_path / "clip.pt"
    torch.jit.script(Clip().half()).save(str(path))
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}

    def changed(**contents):
        with zipfile.ZipFile(tmp_path / "changed.pt", "w") as archive:
            for name, content in members.items():
                end = name.partition("/")[2].replace("/", "_").replace(".", "_")
                archive.writestr(name, contents[end](content) if end in contents else content)
        return tmp_path / "changed.pt"

    return path, changed


def archive(path, module: bytes, storage: bytes = b"", method=zipfile.ZIP_STORED):
    """A TorchScript archive with this module tree."""
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a/data.pkl", module)
        file.writestr("a/code/x.py", "")
        file.writestr("a/data/0", storage)
    return path


MODULE = b"\x80\x02c__torch__\nM\nq\x00)\x81q\x01}q\x02"  # an object of a module, and its attributes
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ%btQ"


def tensor(count: int, size: int, stride: int) -> bytes:
    """A tensor of `size` values over a storage that is said to hold `count`."""
    numbers = [struct.pack("<i", number) for number in (count, size, stride)]
    storage = STORAGE % numbers[0]
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00J%b\x85J%b\x85\x89}tR" % (numbers[1], numbers[2])


def test_modules_that_hold_themselves(tmp_path, cheap):
    cycle = archive(tmp_path / "cycle.pt", MODULE + b"X\x01\x00\x00\x00ah\x01sb.")
    refused("cycle.pt is not a readable TorchScript archive \\(its modules have no end", read_weight_file, cycle)
    level = MODULE
    for number in range(60):  # each module holds the last one twice: 2^60 names
        level += b"0" if number else b""
        level += b"c__torch__\nM\n)\x81}(X\x01\x00\x00\x00ah\x01X\x01\x00\x00\x00bh\x01ubq\x01" if number else b"b"
    doubled = archive(tmp_path / "doubled.pt", level + b".")
    refused("doubled.pt is not a readable TorchScript archive", read_weight_file, doubled)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the damaged file does not belong to the project")
def test_a_file_found_in_the_wild(cheap):
    refused("ts_cycle.pt is not a readable TorchScript archive", read_weight_file, SHARED / "damaged" / "ts_cycle.pt")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (tensor(2**30, 4, 1), "storage 0 has 16 bytes, not 1,073,741,824 values of torch.float32"),
        (tensor(4, 2**31 - 1, 0), "visual.x has 2,147,483,647 values, but fewer are stored"),
        (tensor(4, 5, 1), "out of bounds"), (tensor(4, -1, 1), "not a readable"), (tensor(-4, 4, 1), "has 16 bytes"),
        (b"\x96" + struct.pack("<Q", 2**33), "is not a readable TorchScript archive"),  # room for 8 GB
        (b"Nr\xff\xff\xff\x7f", "none of CLIP"),  # an object remembered as number 2^31 - 1
        (b"\x8b" + struct.pack("<i", 2**31 - 1), "is not a readable TorchScript archive"),  # a number of 2 GB
    ],
)  # fmt: skip
def test_sizes_that_the_file_does_not_have(tmp_path, cheap, module, message):
    path = archive(tmp_path / "sizes.pt", MODULE + b"X\x08\x00\x00\x00visual.x" + module + b"sb.", bytes(16))
    refused(message, read_weight_file, path)


@pytest.mark.parametrize("kind", ["torchscript", "checkpoint"])
def test_archives_that_unpack_to_far_more_than_they_are(tmp_path, cheap, kind):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", MODULE + b"b." if kind == "torchscript" else b"\x80\x02}q\x00.")
        if kind == "torchscript":
            file.writestr("a/code/x.py", "")
        with file.open("a/data/0", "w", force_zip64=True) as member:
            for _ in range(96):
                member.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    refused("bomb.pt of [0-9,]+ bytes would unpack to 100,66", read_weight_file, path)


def test_an_archive_packed_again_is_read(tmp_path):
    """Some zip their weights once more; that they shrink a little is no fault."""
    path = checkpoint_of(tiny_model(seed=0), tmp_path / "best.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    packed, state = read_weight_file(tmp_path / "packed.pth").state, read_weight_file(path).state
    assert packed.keys() == state.keys() and all(torch.equal(packed[name], state[name]) for name in state)


@pytest.mark.parametrize("place", [6, 8, 28, 30, 40])
def test_a_damaged_zip_is_one_line(scripted, tmp_path, place):
    """A flipped bit in the list of members makes zipfile raise one error or another: of text, of support, of value."""
    content = scripted[0].read_bytes()
    directory = content.index(b"PK\x01\x02")
    for bit in range(8):
        changed = bytearray(content)
        changed[directory + place] ^= 1 << bit
        (tmp_path / "flipped.pt").write_bytes(changed)
        try:
            assert read_weight_file(tmp_path / "flipped.pt").kind == "openai"
        except Exception as error:
            refused("flipped.pt", read_weight_file, tmp_path / "flipped.pt")
            assert type(error).__name__ == "InputError"


def test_flipped_weights_are_found_by_their_checksum(scripted, tmp_path):
    content = bytearray(scripted[0].read_bytes())
    content[content.index(b"PK\x01\x02") // 2] ^= 4
    (tmp_path / "flipped.pt").write_bytes(content)
    refused("flipped.pt is damaged: clip/data/.* differs from its checksum", read_weight_file, tmp_path / "flipped.pt")


def test_tensors_that_hold_no_plain_numbers(tmp_path, cheap):
    for value, message in (
        (torch.eye(3).to_sparse(), "is no plain tensor"), (torch.zeros(2, device="meta"), "is no plain tensor"),
        (torch.zeros(2, dtype=torch.complex64), "holds torch.complex64, not real numbers"),
        (torch.zeros(1).expand(3_000_000_000), "has 3,000,000,000 values, but fewer are stored"),
    ):  # fmt: skip
        torch.save({"visual.x": value}, tmp_path / "odd.pth")
        refused(f"odd.pth: visual.x {message}", read_weight_file, tmp_path / "odd.pth")


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (torch.zeros(2), "a Tensor"), ({}, "missing"), ({"dataset": 3, "names": (), "trained": ()}, "no text"),
        ({"dataset": "MARS", "names": "1", "trained": (0, 1)}, "none of the 1 named"),
        ({"dataset": "MARS", "names": ("1", "2"), "trained": (-1,)}, "none of the 2 named"),
    ],
)  # fmt: skip
def test_cameras_that_no_run_wrote(tmp_path, cameras, message):
    torch.save({"model": tiny_model().state_dict(), "epoch": 3, "cameras": cameras}, tmp_path / "best.pth")
    refused(f"best.pth holds no cameras as a run writes them .*{message}", read_weight_file, tmp_path / "best.pth")


def test_a_camera_table_of_another_size_than_its_names(tmp_path):
    model, cameras = tiny_model(), {"dataset": "MARS", "names": ("1", "2"), "trained": (0,)}
    torch.save({"model": model.state_dict(), "epoch": 3, "cameras": cameras}, tmp_path / "best.pth")
    message = r"best.pth names 2 cameras, but encoder.camera_embed is \(3, 64\)"
    refused(message, load_weights, model, tmp_path / "best.pth")


def test_names_that_are_no_texts_and_tensors_of_other_dimensions(tmp_path):
    model = tiny_model()
    torch.save({0: torch.zeros(2), None: torch.zeros(2)}, tmp_path / "numbers.pth")
    refused("numbers.pth is none of CLIP", load_weights, model, tmp_path / "numbers.pth")
    state = Clip().state_dict()
    for name in ("positional_embedding", "class_embedding", "proj", "conv1.weight"):
        for value in (torch.tensor(1.0), torch.zeros(0), torch.zeros(0, 64), torch.zeros(2, 3, 4), torch.zeros(7, 64)):
            torch.save(state | {f"visual.{name}": value}, tmp_path / "shapes.pth")
            refused("shapes.pth is of another architecture", load_weights, model, tmp_path / "shapes.pth")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    refused("pipe.pth is no regular file", read_weight_file, tmp_path / "pipe.pth")
    for path in (tmp_path / ("a" * 300), tmp_path / "nul\0"):
        refused("weight file ", read_weight_file, path)


def test_safetensors_with_other_sizes_than_their_header_says(tmp_path):
    for header in (
        b'{"visual.x":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}',
        b'{"visual.x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"visual.x":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}', b"{" * 5_000, b"{",
    ):  # fmt: skip
        for length in (len(header), 2**40, 0):
            (tmp_path / "odd.safetensors").write_bytes(struct.pack("<Q", length) + header + bytes(8))
            refused("odd.safetensors cannot be read", read_weight_file, tmp_path / "odd.safetensors")


def test_nothing_of_a_torchscript_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    path = archive(tmp_path / "evil.pt", pickle.dumps(Evil(), protocol=2))
    refused("names (posix|os).mkdir, which is not a tensor", read_weight_file, path)
    assert not (tmp_path / "made").exists()
