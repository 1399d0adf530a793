"""The pack: every frame comes back as it went in, and a cut, altered or foreign file is said to be so."""

import multiprocessing
import os
import pickle
import random
import sys
from collections import Counter
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

from datasets.frames.reader import read_frame
from datasets.frames.store import FrameStore, frame_key, frame_source, write_store
from utils.errors import InputError, MissingFileError

FRAMES = {f"train/{n:04d}/f{n % 3}.jpg": random.Random(n).randbytes(n * 11 % 9000 + 1) for n in range(900)}
FRAMES |= {"test/ä\udcff b.png": b"\0\xff\xd8", "x/" * 300 + "a.jpg": b"long name", "x/" * 300 + "b.jpg": b""}


def written(path: Path, frames: dict[str, bytes] = FRAMES) -> Path:
    write_store(path, ((name, frames[name]) for name in sorted(frames, key=frame_key)))
    return path


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("packs") / "set.pack")


def refused(path: Path, problem: str) -> None:
    """Opening says it in one line that tells how to write the file again."""
    with pytest.raises(InputError, match=rf"^pack {path} {problem}; write it again: .*datasets.pack .*--overwrite$"):
        FrameStore(str(path))


def altered(path: Path, place: int, content: bytes) -> Path:
    """A file with one byte changed, beside `path`."""
    copy = path.with_name("altered.pack")
    copy.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    return copy


def test_every_frame_comes_back_and_no_other_is_there(pack):
    store = FrameStore(str(pack))
    assert len(store) == len(FRAMES)
    assert {name: bytes(store.content(name)) for name in FRAMES} == FRAMES
    assert {key: bytes(content) for key, content in store.frames()} == {frame_key(n): c for n, c in FRAMES.items()}
    with pytest.raises(InputError, match="does not hold frame train/0001/f0.jpg.* data set; write it again"):
        store.content("train/0001/f0.jpg")


@pytest.mark.parametrize(("count", "size"), [(0, 9), (1, 3000), (199, 3000), (200, 3000), (201, 3000), (600, 60_000)])
def test_packs_of_any_size_can_be_read_by_lmdb_alone_too(tmp_path, count, size):
    frames = {f"{n:03d}": random.Random(n).randbytes(size) for n in range(count)}
    path, total = written(tmp_path / "a", frames), count * size
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False, map_size=0) as env, env.begin() as transaction:
        found = {key.decode(): value[8 : 8 + size] for key, value in transaction.cursor() if key != b"\0pack"}
        assert env.info()["map_size"] < total + 2 * 2**24  # with 600 frames it grew more than once
    assert found == frames and len(FrameStore(str(path))) == count and os.listdir(tmp_path) == ["a"]
    if size == 60_000:
        assert total < path.stat().st_size < 1.05 * total and path.stat().st_blocks * 512 < 1.06 * total
    for names in ("aa", "ba"):
        with pytest.raises(ValueError, match="twice or out of order"):
            write_store(tmp_path / "b", ((name, b"1") for name in names))


def test_the_digest_names_the_content(tmp_path, pack):
    name = "train/0007/f1.jpg"
    renamed = {("x" + key if key == name else key): value for key, value in FRAMES.items()}
    packs = [
        pack,
        written(tmp_path / "a"),
        written(tmp_path / "b", FRAMES | {name: b"1"}),
        written(tmp_path / "c", renamed),
    ]
    digests = [FrameStore(str(path)).digest for path in packs]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def read_all(store: FrameStore) -> bool:
    return all(store.content(name) == content for name, content in FRAMES.items())


def test_processes_read_it_at_once_while_several_stores_are_open(pack):
    first, second = FrameStore(str(pack)), FrameStore(str(pack))
    assert read_all(first) and read_all(second)
    with multiprocessing.get_context("fork").Pool(2) as pool:  # each task gets a pickled copy
        assert pool.map(read_all, [first, second] * 2) == [True] * 4
    fork = multiprocessing.get_context("fork")
    inherited = [fork.Process(target=lambda: sys.exit(not read_all(first))) for _ in range(2)]
    for process in inherited:
        process.start()
    assert read_all(first) and len(pickle.dumps(first)) < 1000
    for process in inherited:
        process.join()
        assert process.exitcode == 0


def test_a_missing_a_foreign_and_an_old_file_are_named(tmp_path):
    path = tmp_path / "a.pack"
    with pytest.raises(MissingFileError, match="^pack .*a.pack does not exist; write it with"):
        FrameStore(str(path))
    with lmdb.open(str(tmp_path / "other"), subdir=False, lock=False) as env, env.begin(write=True) as transaction:
        transaction.put(b"train/0000/f0.jpg", b"content")
    for content in (b"", b"PK\3\4" * 100, bytes(9000), (tmp_path / "other").read_bytes()):
        path.write_bytes(content)
        refused(path, "is no pack, or was cut or altered")
    path.write_bytes(b"TFCLIPFR" + bytes(100))
    refused(path, "has an old format")
    refused(tmp_path, r"cannot be opened \(Is a directory\)")


def test_a_cut_or_altered_index_is_refused(pack, tmp_path):
    content = pack.read_bytes()
    for part in (content[:-1], content + b"!", content[:-4096], content[:8192], content[: len(content) // 2]):
        (tmp_path / "a.pack").write_bytes(part)
        refused(tmp_path / "a.pack", "is no pack, or was cut or altered")
    for place in (24, 4096 + 40, content.index(b'\0pack{"format"'), len(content) - 1):
        refused(altered(tmp_path / "a.pack", place, content), "is no pack, or was cut or altered")


def test_a_changed_byte_of_a_frame_is_found_when_it_is_read_and_only_there(pack, tmp_path):
    content, name = pack.read_bytes(), "train/0500/f2.jpg"
    store = FrameStore(str(altered(tmp_path / "a.pack", content.index(FRAMES[name]) + 9, content)))
    with pytest.raises(InputError, match=f"altered.pack holds frame {name} with altered bytes; write it again"):
        store.content(name)
    assert store.content("train/0501/f0.jpg") == FRAMES["train/0501/f0.jpg"]
    assert [key.decode() for key, found in store.frames() if found is None] == [name]


def test_a_file_that_is_replaced_in_use_is_not_read_on(tmp_path):
    store = FrameStore(str(written(tmp_path / "a")))
    assert read_all(store)
    written(tmp_path / "b", {"a": b"1"}).replace(tmp_path / "a")
    with pytest.raises(InputError, match="cannot be opened .it was replaced while it was in use"):
        multiprocessing.get_context("fork").Process(target=int).start()  # which closes the file
        read_all(store)


def damaged(sound: bytes, number: int) -> bytes:
    """The file with a damage of its own for each number; every second one hits the index."""
    rng = random.Random(number)
    content = bytearray(sound)
    index = [place for place in range(0, len(sound) - 16, 4096) if sound[place + 10] in (1, 2, 8)]
    place = rng.choice(index) + rng.randrange(200) if number % 2 else rng.randrange(len(content))
    kind = ("bit", "page header", "zeros", "noise", "cut")[number // 2 % 5]
    if kind == "bit":
        content[place] ^= 1 << rng.randrange(8)
    elif kind == "page header":
        content[place - place % 4096 + rng.randrange(16)] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[place:]
    else:
        content[place : place + 64] = bytes(64) if kind == "zeros" else rng.randbytes(64)
    return bytes(content)


def try_damages(source: Path) -> None:
    """Each frame of each damaged file: its bytes, or a line that names file and frame."""
    sound, path, outcomes = source.read_bytes(), source.with_name("damaged.pack"), Counter()
    for number in range(400):
        path.write_bytes(damaged(sound, number))
        try:
            store = FrameStore(str(path))
        except InputError as error:
            assert error.line.startswith(f"pack {path} is no pack, or was cut or altered; "), error
            outcomes["refused"] += 1
            continue
        for name, content in FRAMES.items():
            try:
                assert store.content(name) == content, (number, name)
                outcomes["read"] += 1
            except InputError as error:
                assert error.line.startswith(f"pack {path} holds frame {name} with altered bytes; "), error
                outcomes["altered"] += 1
    assert outcomes["refused"] > 100 and outcomes["read"] > 50_000 and outcomes["altered"] > 50, outcomes


@pytest.mark.slow
def test_no_damage_crashes_python_or_gives_wrong_bytes(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=try_damages, args=(written(tmp_path / "a"),))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_frames_are_read_from_the_pack_below_their_folder_and_from_files_without_one(tmp_path):
    (tmp_path / "set" / "train").mkdir(parents=True)
    frames = {}
    for name, size in (("train/a.jpg", (16, 32)), ("train/b.png", (20, 40))):
        image = tmp_path / "set" / name
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(image)
        frames[name] = image.read_bytes()
    frames |= {"train/c.jpg": b"no image", "train/d.jpg": frames["train/a.jpg"][:-300]}
    root = str(tmp_path / "set")
    packed, files = frame_source(str(written(tmp_path / "set.pack", frames)), root), frame_source("", root)
    for name in ("train/a.jpg", "train/b.png"):
        expected = read_frame(f"{root}/{name}", (32, 16), files)
        Path(root, name).unlink()
        assert torch.equal(read_frame(f"{root}/{name}", (32, 16), packed), expected) and expected.float().std() > 0
    for name, line in (("c", "it is no image"), ("d", "image file is truncated")):
        with pytest.raises(InputError, match=rf"^frame {root}/train/{name}.jpg cannot be decoded \({line}"):
            read_frame(f"{root}/train/{name}.jpg", (32, 16), packed)
    with pytest.raises(InputError, match="does not hold frame train/e.jpg"):
        read_frame(f"{root}/train/e.jpg", (32, 16), packed)
