"""Files that are whole or absent: two writers, killed writers, full disks, folders that take nothing."""

import multiprocessing
import os
import re
import resource
import stat
import subprocess
import time
import zipfile
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from utils.errors import InputError, MissingFileError
from utils.files import check_archive, is_running, save_archive, save_json, save_text, write_atomically

BIG = {"x": torch.ones(1_000_000)}  # 4 MB


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(write, *arguments) -> str:
    """The one line of an InputError."""
    with pytest.raises(InputError) as caught:
        write(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True).returncode:
        pytest.skip("this user cannot mount a disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "last.pth"
    path.write_text("old")
    for fault in (RuntimeError, KeyboardInterrupt, None):

        def write(temporary, fault=fault):
            temporary.write_text("new")
            assert path.read_text() == "old"
            if fault:
                raise fault

        with pytest.raises(fault) if fault else nullcontext():
            write_atomically(path, write)
        assert path.read_text() == ("old" if fault else "new") and names_in(tmp_path) == ["last.pth"]


def test_each_writer_has_a_name_of_its_own_and_permissions_are_ordinary(tmp_path):
    used = []

    def write(temporary):
        used.append(temporary.name)
        if len(used) == 1:
            write_atomically(tmp_path / "a.txt", write)
        temporary.write_text("whole")

    write_atomically(tmp_path / "a.txt", write)
    assert len(set(used)) == 2 and names_in(tmp_path) == ["a.txt"]
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_faults_of_another_kind_keep_their_message(tmp_path):
    def missing(temporary):
        raise MissingFileError("frame 7 is missing")

    assert refusal(write_atomically, tmp_path / "a", missing) == "frame 7 is missing"
    with pytest.raises(TypeError):
        save_json(tmp_path / "a", {1, 2})
    with pytest.raises(Exception, match="pickle|lambda"):
        save_archive(tmp_path / "a", lambda: 2)
    assert names_in(tmp_path) == []


def test_a_full_disk_is_one_line_with_the_room_needed_and_free(small_disk):
    path = small_disk / "last.pth"
    path.write_text("old")
    needed = (
        r"last\.pth cannot be written \(No space left on device\): it needs 4\.0 MB, 2\.1 MB are free on its disk; make"
    )
    assert re.search(needed, refusal(save_archive, path, BIG))
    assert "it needs 3.0 MB, 2.1 MB are free" in refusal(save_text, path, "x" * 3_000_000)

    def features(temporary):
        with temporary.open("wb") as file:
            np.savez(file, features=np.ones(1_000_000))

    assert re.search("it needs more than [12]\\.. MB, 2.1 MB are free", refusal(write_atomically, path, features))
    assert path.read_text() == "old" and names_in(small_disk) == ["last.pth"]


def write_with_little_room(path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    line = refusal(save_archive, path, BIG)
    assert "(File too large): it needs 4.0 MB, " in line and "ulimit -f" in line, line
    save_text(path, "fits")


def test_a_limit_of_the_file_size_is_one_line(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=write_with_little_room, args=[tmp_path / "a"])
    process.start()
    process.join()
    assert process.exitcode == 0 and names_in(tmp_path) == ["a"]


def test_a_folder_that_takes_nothing_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written (Not a directory)" in refusal(save_text, tmp_path / "file" / "a", "x")
    assert "cannot be written (No such file or directory)" in refusal(save_text, tmp_path / "nowhere" / "a", "x")
    folder = tmp_path / "folder"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o500)
    elif subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder], capture_output=True).returncode:
        pytest.skip("this user may write everywhere and cannot mount a read-only disk")
    try:
        expected = "Permission denied" if os.geteuid() else "Read-only file system"
        assert refusal(save_archive, folder / "last.pth", BIG).endswith(f"last.pth cannot be written ({expected})")
    finally:
        if not os.geteuid():
            subprocess.run(["umount", folder], check=True)


def write_for_ever(path, connection) -> None:
    def write(temporary):
        temporary.write_text("half")
        connection.send(temporary.name)
        time.sleep(60)

    write_atomically(path, write)


def test_what_a_killed_writer_left_is_removed_by_the_next_one_and_a_living_one_keeps_its_own(tmp_path):
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    writers = [fork.Process(target=write_for_ever, args=[tmp_path / "last.pth", there]) for _ in range(2)]
    names = []
    try:
        for writer in writers:
            writer.start()
            names.append(here.recv())
        writers[0].kill()
        writers[0].join()
        foreign = [tmp_path / f".last.pth.elsewhere-{number}-0123abcd.tmp" for number in (1, 2)]
        for path in foreign:
            path.write_text("half")
        os.utime(foreign[0], (time.time() - 2 * 24 * 3600,) * 2)
        assert not is_running(writers[0].pid) and set(names) < set(names_in(tmp_path)) and len(names_in(tmp_path)) == 4
        save_text(tmp_path / "last.pth", "whole")
        assert names_in(tmp_path) == sorted([names[1], foreign[1].name, "last.pth"])
    finally:
        for writer in writers:
            writer.kill()
            writer.join()


def test_checksums_of_an_archive_are_tested_where_it_has_them(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(BIG, path)
    check_archive(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path)["x"].numel() == BIG["x"].numel()  # torch does not notice
    assert (
        refusal(check_archive, path)
        == f"{path} is damaged: weights/data/0 differs from its checksum; copy or make it anew"
    )
    torch.save(BIG, path)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"weights/data/0") - 8] ^= 0x10  # an attribute in the table of contents: a folder
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    assert "weights/data/0 differs from its checksum" in refusal(check_archive, path)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(BIG, path)
    finally:
        torch.serialization.set_crc32_options(True)
    check_archive(path)
    path.write_bytes(b"no archive")
    check_archive(path)
