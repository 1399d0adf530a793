"""One file of frames: every frame comes back as it went in, and a cut, altered or foreign file is said to be so."""

import pickle
import struct
import zlib
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.frames import store as frame_store
from datasets.frames.reader import read_frame
from datasets.frames.store import FrameStore, frame_source, write_store
from utils.errors import InputError, MissingFileError

FRAMES = {f"train/{number:04d}/f{number % 3}.jpg": bytes([number % 256]) * (number % 50 + 1) for number in range(300)}
FRAMES["test/ä\udcff b.png"] = b"\0\xff\xd8"  # a name that is no valid UTF-8


def written(path: Path, frames: dict[str, bytes]) -> str:
    """Write a store; returns its digest."""
    with path.open("wb") as file:
        return write_store(file, frames.items())


@pytest.fixture
def path(tmp_path) -> Path:
    written(tmp_path / "set.pack", FRAMES)
    return tmp_path / "set.pack"


def test_every_frame_comes_back_and_no_other_is_there(path):
    store = FrameStore(str(path))
    assert len(store) == len(FRAMES)
    assert {name: bytes(store.read(name)) for name in FRAMES} == FRAMES
    assert not store.holds("train/0000/f1.jpg") and store.holds("train/0000/f0.jpg") and not store.holds("")
    assert [(name, bytes(content), sound) for name, content, sound in store.frames()] == [
        (name, content, True) for name, content in FRAMES.items()
    ]


def test_the_file_is_laid_out_as_the_docstring_says(path):
    """Read with the struct module alone."""
    content = path.read_bytes()
    magic, version, zero, count, start, names_bytes, checksum, rest = struct.unpack("<8sIIQQQ16s8s", content[:64])
    assert (magic, version, zero, count, rest) == (b"TFCLIPFR", 1, 0, len(FRAMES), bytes(8)) and start % 8 == 0
    assert len(content) == start + 32 * count + names_bytes
    covered = struct.pack("<IIQQQ", 1, 0, count, start, names_bytes) + content[start:]
    assert checksum == blake2b(covered, digest_size=16).digest()
    names = content[start + 32 * count :].split(b"\0")
    assert names.pop() == b"" and len(names) == count
    hashes, columns = [], []
    for kind in "QQQII":
        columns.append(struct.unpack_from(f"<{count}{kind}", content, start))
        start += struct.calcsize(f"<{count}{kind}")
    for name, first, second, place, length, crc in zip(names, *columns):
        frame = content[place : place + length]
        assert frame == FRAMES[name.decode("utf-8", "surrogateescape")] and crc == zlib.crc32(frame)
        assert struct.pack("<QQ", first, second) == blake2b(name, digest_size=16).digest()
        hashes.append((first, second))
    assert hashes == sorted(hashes)


def test_the_digest_names_the_content(tmp_path):
    first = written(tmp_path / "a", FRAMES)
    assert first == written(tmp_path / "b", dict(FRAMES)) == FrameStore(str(tmp_path / "a")).digest
    assert len(bytes.fromhex(first)) == 16
    name = "train/0007/f1.jpg"
    renamed = {("x" + key if key == name else key): value for key, value in FRAMES.items()}
    assert len({first, written(tmp_path / "c", FRAMES | {name: b"1234567!"}), written(tmp_path / "d", renamed)}) == 3


def test_an_empty_store_and_an_empty_frame_can_be_read(tmp_path):
    written(tmp_path / "none", {})
    assert len(FrameStore(str(tmp_path / "none"))) == 0 and not FrameStore(str(tmp_path / "none")).holds("a")
    written(tmp_path / "one", {"a": b""})
    assert bytes(FrameStore(str(tmp_path / "one")).read("a")) == b""


def test_a_name_that_comes_twice_is_refused(tmp_path):
    with (tmp_path / "a").open("wb") as file, pytest.raises(ValueError, match="twice"):
        write_store(file, [("a", b"1"), ("a", b"1")])


def test_names_whose_hashes_begin_alike_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_store, "_hash", lambda name: (len(name) % 2, int(name[1:])))
    written(tmp_path / "a", {f"f{number}": bytes([number]) for number in range(40)})
    store = FrameStore(str(tmp_path / "a"))
    assert [store.read(f"f{number}")[0] for number in range(40)] == list(range(40))
    assert not store.holds("f40") and not store.holds("f100")


def test_another_process_gets_the_path_alone(path):
    store = FrameStore(str(path))
    sent = pickle.dumps(store)
    assert len(sent) < 1000 and bytes(pickle.loads(sent).read("train/0004/f1.jpg")) == FRAMES["train/0004/f1.jpg"]


def test_a_missing_and_a_foreign_file_are_named(tmp_path):
    with pytest.raises(MissingFileError, match="^DATASETS.PACK .*a.pack does not exist"):
        FrameStore(str(tmp_path / "a.pack"))
    for content in (b"", b"TFCLIPFR", b"PK\3\4" * 100):
        (tmp_path / "b.pack").write_bytes(content)
        with pytest.raises(InputError, match="^DATASETS.PACK .*b.pack (cannot be opened|is no file of)") as caught:
            FrameStore(str(tmp_path / "b.pack"))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be opened"):
        FrameStore(str(tmp_path))


def test_a_file_of_another_version_is_named(path):
    content = bytearray(path.read_bytes())
    content[8] = 2
    path.write_bytes(content)
    with pytest.raises(InputError, match="has version 2, this code reads 1"):
        FrameStore(str(path))


@pytest.mark.parametrize("change", [-1, -500, 1])
def test_a_file_of_another_length_is_named(path, change):
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"!")
    with pytest.raises(InputError, match="set.pack has .* bytes, not .*: it was cut or altered"):
        FrameStore(str(path))


def test_a_changed_byte_is_found_when_it_is_met_and_only_there(path):
    """Each byte of header and index at opening, each byte of a frame when that frame is read."""
    content = path.read_bytes()
    start = struct.unpack_from("<Q", content, 24)[0]
    for place in [*range(0, 56), start, start + 1000, len(content) - 5]:
        altered = bytearray(content)
        altered[place] ^= 4
        path.write_bytes(altered)
        with pytest.raises(InputError, match="^DATASETS.PACK .*set.pack "):
            FrameStore(str(path))
    altered = bytearray(content)
    altered[64 + len(FRAMES["train/0000/f0.jpg"])] ^= 1  # the first byte of the second frame
    path.write_bytes(altered)
    store = FrameStore(str(path))
    with pytest.raises(InputError, match="the bytes of frame train/0001/f1.jpg were altered"):
        store.read("train/0001/f1.jpg")
    assert bytes(store.read("train/0000/f0.jpg")) == FRAMES["train/0000/f0.jpg"]
    assert [name for name, _, sound in store.frames() if not sound] == ["train/0001/f1.jpg"]


def test_a_frame_that_is_not_there_is_named_with_the_file_and_a_way_out(path):
    with pytest.raises(InputError, match="set.pack does not hold frame train/0001/f0.jpg: .*datasets.pack") as caught:
        FrameStore(str(path)).read("train/0001/f0.jpg")
    assert "\n" not in str(caught.value)


def test_frames_are_read_from_the_store_below_their_folder_and_from_files_without_one(tmp_path):
    (tmp_path / "set" / "train").mkdir(parents=True)
    frames = {}
    for name, size in (("train/a.jpg", (16, 32)), ("train/b.png", (20, 40))):
        image = tmp_path / "set" / name
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(image)
        frames[name] = image.read_bytes()
    frames["train/c.jpg"] = b"no image"
    frames["train/d.jpg"] = frames["train/a.jpg"][:-300]
    pack, root = str(tmp_path / "set.pack"), str(tmp_path / "set")
    written(Path(pack), frames)
    packed, files = frame_source(pack, root), frame_source("", root)
    for name in ("train/a.jpg", "train/b.png"):
        expected = read_frame(f"{root}/{name}", (32, 16), files)
        assert torch.equal(read_frame(f"{root}/{name}", (32, 16), packed), expected) and expected.float().std() > 0
        Path(root, name).unlink()
        assert torch.equal(read_frame(f"{root}/{name}", (32, 16), packed), expected)
    for name, line in (("c", "it is no image"), ("d", "image file is truncated")):
        with pytest.raises(InputError, match=rf"^frame {root}/train/{name}.jpg cannot be decoded \({line}"):
            read_frame(f"{root}/train/{name}.jpg", (32, 16), packed)
    with pytest.raises(InputError, match="does not hold frame train/e.jpg"):
        read_frame(f"{root}/train/e.jpg", (32, 16), packed)
