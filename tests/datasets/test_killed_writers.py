"""Cutting, unpacking and packing that are killed for real: what they leave is deleted, and only that."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets.frames import FrameStore
from datasets.own.manifest import parse_manifest
from datasets.pack import main as pack_main
from datasets.sets import cache_folder
from datasets.sets.archive import unpack_tar
from datasets.sets.cache_folder import workshop
from tests.conftest import ROOT
from tests.datasets.own.manifest_files import BOXED, write_pictures, write_table
from tests.datasets.sets.archive_files import is_image, listing, write_tar

SLOWLY = """
import sys, time
from pathlib import Path
from datasets import pack
from datasets.own import crops
from datasets.own.manifest import parse_manifest
from datasets.sets import archive
def slow(home, name):
    quick = getattr(home, name)
    setattr(home, name, lambda *arguments: (time.sleep(0.2), quick(*arguments))[1])
slow(crops, "save_crop"), slow(archive.tarfile.TarFile, "makefile"), slow(pack, "_frame")
what, source, target = sys.argv[1:]
if what == "crops":
    parse_manifest(source, cache_dir=target)
elif what == "archive":
    archive.unpack_tar(Path(source), target, lambda name: name.endswith(".png"))
else:
    sys.exit(pack.main(["--out", target, "DATASETS.ROOT_DIR", source]))
"""


@pytest.fixture
def start() -> Iterator:
    """start(what, source, target): a process that writes slowly, and has written something already."""
    started = []

    def call(what: str, source: Path, target: Path) -> subprocess.Popen:
        folder = target if what != "pack" else target.parent
        before = temporary(folder)
        process = subprocess.Popen([sys.executable, "-c", SLOWLY, what, str(source), str(target)], cwd=ROOT)
        started.append(process)
        deadline = time.monotonic() + 60
        while not any(path.is_file() for left in temporary(folder) - before for path in left.rglob("[!.]*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()


def temporary(folder: Path) -> set[Path]:
    return set(folder.glob("*.tmp")) if folder.is_dir() else set()


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def table(folder: Path, seed: int = 1) -> Path:
    write_pictures(folder)
    return write_table(folder, *(f"train,p{x},c,t,pics/{seed}.png,{x},0,4,4" for x in range(30)), header=BOXED)


@pytest.mark.slow
def test_what_a_killed_cutting_left_is_deleted_by_the_next_one_and_a_living_one_stays(tmp_path, start):
    cache, lists = tmp_path / "cache", [table(tmp_path / name) for name in ("one", "two")]
    kill(start("crops", lists[0], cache))
    (left,) = temporary(cache)
    assert any(left.rglob("*.png"))
    living = start("crops", lists[0], cache)
    (of_the_living,) = temporary(cache)
    assert of_the_living != left
    living.send_signal(signal.SIGSTOP)  # it lives, whatever it does
    raw = parse_manifest(lists[1], cache_dir=str(cache))
    assert temporary(cache) == {of_the_living}
    living.send_signal(signal.SIGCONT)
    assert living.wait(60) == 0
    assert temporary(cache) == set() and len(list(cache.iterdir())) == 2
    assert len(list(Path(raw.root).rglob("0_*.png"))) == 30


@pytest.mark.slow
def test_two_cuttings_of_one_list_at_once_do_not_disturb_each_other(tmp_path, start):
    cache, path = tmp_path / "cache", table(tmp_path / "one")
    first = start("crops", path, cache)
    first.send_signal(signal.SIGSTOP)
    second = start("crops", path, cache)
    first.send_signal(signal.SIGCONT)
    assert [process.wait(60) for process in (first, second)] == [0, 0]
    (folder,) = cache.iterdir()
    assert len(list(folder.rglob("0_*.png"))) == 30


@pytest.mark.slow
def test_what_a_killed_unpacking_left_is_deleted(tmp_path, start):
    path = write_tar(tmp_path / "s.tar", files=[(f"set/{number}.png", b"content") for number in range(30)])
    kill(start("archive", path, tmp_path / "cache"))
    assert len(temporary(tmp_path / "cache")) == 1
    folder = unpack_tar(path, tmp_path / "cache", is_image)
    assert list((tmp_path / "cache").iterdir()) == [folder] and len(listing(folder)) == 30


@pytest.mark.slow
def test_what_a_killed_packing_left_is_deleted_and_two_at_once_give_one_whole_pack(tiny_mars, tmp_path, start):
    out = tmp_path / "mars.pack"
    kill(start("pack", tiny_mars, out))
    assert len(temporary(tmp_path)) == 1 and not out.exists()
    other = start("pack", tiny_mars, out)
    assert len(temporary(tmp_path)) == 1
    assert pack_main(["--out", str(out), "DATASETS.ROOT_DIR", str(tiny_mars)]) == 0
    digest = FrameStore(str(out)).digest
    assert len(temporary(tmp_path)) == 1  # of the other one, which is at work
    kill(other)
    assert pack_main(["--out", str(out), "--overwrite", "DATASETS.ROOT_DIR", str(tiny_mars)]) == 0
    assert FrameStore(str(out)).digest == digest and list(tmp_path.iterdir()) == [out]


def leave(folder: Path, system: str, days: float) -> Path:
    """A temporary folder as a writer on `system` left it so many days ago."""
    left = folder / f"list-0123456789abcdef.{len(list(folder.iterdir())):08x}.tmp"
    (left / "new").mkdir(parents=True)
    (left / ".tf-clip-writer").write_text(system)
    before = time.time() - days * 24 * 3600
    os.utime(left / ".tf-clip-writer", (before, before))
    return left


def test_folders_of_other_machines_are_deleted_when_they_are_old_and_foreign_ones_never(tmp_path, monkeypatch):
    here = cache_folder._system()
    assert here == cache_folder._system()
    gone = [leave(tmp_path, here, 0), leave(tmp_path, "another machine", 8)]
    kept = [leave(tmp_path, "another machine", 6), tmp_path / "mine.01234567.tmp", tmp_path / "notes.tmp"]
    kept[1].mkdir()
    for path, days in ((tmp_path / f"list-{'0' * 16}.01234567.tmp", 8), (tmp_path / f"s-{'0' * 12}.01234567.tmp", 6)):
        path.mkdir()  # as an earlier version left it
        (gone if days > 7 else kept).append(path)
        os.utime(path, (time.time() - days * 24 * 3600,) * 2)
    os.utime(kept[1], (0, 0))
    kept[2].write_text("mine")
    with workshop(tmp_path / "x") as aside:
        assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)
        with workshop(tmp_path / "x") as other:
            assert aside.is_dir() and other.is_dir() and other != aside
    assert set(tmp_path.iterdir()) == set(kept)


def test_on_a_disk_without_locks_only_old_folders_are_deleted(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(cache_folder.fcntl, "flock", no_locks)
    young, old = leave(tmp_path, cache_folder._system(), 0), leave(tmp_path, cache_folder._system(), 8)
    with workshop(tmp_path / "x") as aside:
        assert aside.is_dir() and young.exists() and not old.exists()
    assert list(tmp_path.iterdir()) == [young]


def test_a_folder_that_is_taken_for_abandoned_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    lock, made = cache_folder._lock, []

    def remove_the_first(file):
        if not made:
            cache_folder.shutil.rmtree(Path(file.name).parent)
        made.append(file.name)
        lock(file)

    monkeypatch.setattr(cache_folder, "_lock", remove_the_first)
    with workshop(tmp_path / "x") as aside:
        assert len(made) == 2 and list(tmp_path.iterdir()) == [aside]
