"""Pipes, devices, sockets and folders in the place of a data set's files: one line that names the file, no waiting."""

import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.build import load_splits
from datasets.check import main as check_main
from datasets.exclusion import read_exclusions
from datasets.frames import FILES, FrameStore, read_frame
from datasets.frames.probe import open_frame
from datasets.own.manifest import parse_manifest, parse_video
from datasets.pack import main as pack_main
from datasets.regular import read_regular
from datasets.sets.archive import unpack_tar
from datasets.sets.find_root import read_lines
from datasets.sets.matlab import read_matlab73
from datasets.sets.matlab5 import read_matlab5
from tests.conftest import one_error
from utils.errors import InputError, MissingFileError

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")


def make_socket(path: Path) -> None:
    home = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(home)


def link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


KINDS = {
    "a pipe": os.mkfifo,
    "a pipe, not": link_to_a_pipe,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": make_socket,
    "Is a directory": os.mkdir,
}
READERS = {
    "frame": lambda path: read_frame(str(path), (8, 4)),
    "bytes": lambda path: read_regular(path),
    "text": lambda path: read_lines(path, "images"),
    "MATLAB 5": lambda path: read_matlab5(path, "x"),
    "MATLAB 7.3": lambda path: read_matlab73(path, "x"),
    "exclusions": lambda path: read_exclusions(str(path)),
    "pack": lambda path: FrameStore(str(path)),
    "archive": lambda path: unpack_tar(path, path.parent / "cache", lambda name: True),
}


@pytest.fixture(autouse=True)
def _no_waiting():
    """A test that waits for a pipe fails."""

    def stop(*_):
        pytest.fail("it waits")  # no OSError, which the readers would take for a fault of the file

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_only_a_regular_file_is_read(tmp_path, reader, kind):
    path = tmp_path / "file"
    KINDS[kind](path)
    with pytest.raises((InputError, OSError), match=kind) as caught:
        READERS[reader](path)
    if reader != "bytes":
        assert isinstance(caught.value, InputError) and not isinstance(caught.value, MissingFileError)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_standard_input_is_no_file_while_it_is_a_pipe(tmp_path):
    path = tmp_path / "a.jpg"
    receiver, sender = os.pipe()
    path.symlink_to(f"/dev/fd/{receiver}")
    with pytest.raises(InputError, match="a.jpg cannot be opened .it is a pipe, not a regular file"):
        read_frame(str(path), (8, 4))
    os.close(receiver)
    os.close(sender)


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_goes_on_after_such_a_frame(tmp_path, kind):
    KINDS[kind](tmp_path / "a.jpg")
    opened = open_frame(str(tmp_path / "a.jpg"))
    assert opened.fault.startswith("cannot be opened (") and kind in opened.fault and not opened.missing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("parse", "columns"), [(parse_manifest, "frame"), (parse_video, "video,frame")])
def test_lists_pictures_and_videos_of_the_users_own(tmp_path, kind, parse, columns):
    listed = tmp_path / "list.csv"
    KINDS[kind](listed)
    (tmp_path / "pictures").mkdir()
    if kind != "Is a directory":  # which is the folder of a list
        with pytest.raises(InputError, match=f"cannot be read.*{kind}|neither a file nor a folder"):
            parse(listed)
        with pytest.raises(InputError, match=f"list.csv cannot be read .*{kind}"):
            parse(tmp_path)
    KINDS[kind](tmp_path / "pictures" / "a")
    table = tmp_path / "b.csv"
    frame = "pictures/a,0" if parse is parse_video else "pictures/a"
    table.write_text(f"split,person,camera,tracklet,{columns},x,y,w,h\ntrain,p,c,t,{frame},0,0,4,4\n")
    with pytest.raises(InputError, match=f"b.csv row 2: .*a cannot be opened .*{kind}"):
        parse(table, cache_dir=str(tmp_path / "cache"))


def test_commands_say_it_in_one_line(tiny_mars, tmp_path, caplog):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    root = ["DATASETS.ROOT_DIR", str(tiny_mars)]
    for main, argv, expected in (
        (check_main, [*root, "DATASETS.EXCLUDE", str(pipe)], "cannot be read as a CSV file (it is a pipe, not a reg"),
        (check_main, [*root, "--fix-list", str(pipe)], "is there and is no list"),
        (pack_main, [*root, "--out", str(pipe)], "must name a file"),
        (pack_main, [*root, "--out", str(pipe), "--check"], "cannot be opened (it is a pipe, not a regular file)"),
    ):
        line = one_error(caplog, main, argv)
        assert str(pipe) in line and expected in line
    with pytest.raises(MissingFileError, match="is not a folder"):
        load_splits("MARS", str(pipe))


def test_a_file_too_large_for_memory_is_refused_unread(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((8, 4, 3), np.uint8)).save(path)
    assert FILES.content(str(path)) == path.read_bytes()
    os.truncate(path, 2**40)  # which takes no space
    with pytest.raises(InputError, match=r"a.jpg cannot be opened \(it has 1,099,511,627,776 bytes, at most 1,073"):
        read_frame(str(path), (8, 4))
    with pytest.raises(InputError, match="as a list of images .it has 1,099"):
        read_lines(path, "images")
