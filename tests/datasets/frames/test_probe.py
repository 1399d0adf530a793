"""Opening frames in one or several processes, and how the command ends: exit codes, one line, Ctrl-C."""

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from datasets.check import command as check
from datasets.frames import probe, read_frame
from datasets.frames.probe import open_frame, open_frames
from utils.errors import InputError


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (20, 40)) -> str:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return str(path)


@pytest.mark.parametrize(("name", "mode"), [("a.jpg", "RGB"), ("a.jpg", "L"), ("a.png", "P"), ("a.png", "RGBA")])
def test_a_whole_picture_gives_its_size_and_a_digest_of_its_bytes(tmp_path, name, mode):
    opened = open_frame(picture(tmp_path / name, mode, (20, 40)))
    assert (opened.fault, opened.missing, opened.width, opened.height) == ("", False, 20, 40)
    same = shutil.copy(tmp_path / name, tmp_path / f"same {name}")
    assert open_frame(same) == opened and open_frame(picture(tmp_path / "b.bmp")).digest != opened.digest


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_picture_is_found_although_its_header_is_whole(tmp_path, name, share):
    path = tmp_path / name
    picture(path, size=(64, 128))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    opened = open_frame(str(path))
    assert opened.fault and not opened.missing and opened.digest == b"" and "\n" not in opened.fault


def test_what_is_no_file_and_what_is_no_picture(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    names = ("gone.jpg", "link.jpg", "text.jpg/x.jpg", "folder.jpg", "empty.jpg", "text.jpg", "zero\0.jpg")
    opened = [open_frame(str(tmp_path / name)) for name in names]
    assert [frame.missing for frame in opened] == [True] * 3 + [False] * 4
    assert [frame.fault.split(" (")[0] for frame in opened] == [
        *["does not exist"] * 3, "cannot be opened", "holds no byte", "is no image", "cannot be opened",
    ]  # fmt: skip


def deep_png(path: Path) -> None:
    """A PNG of 16 bits per colour, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20, 40, 16, 2, 0, 0, 0)
    rows = zlib.compress(bytes(40 * (1 + 20 * 6)))
    content = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def test_what_other_programs_show_otherwise_is_remarked_and_changes_no_pixel(tmp_path):
    image = Image.open(picture(tmp_path / "plain.jpg"))
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    upright = Image.Exif()
    upright[ExifTags.Base.Orientation] = 1
    image.save(tmp_path / "upright.jpg", exif=upright)
    for name in ("turned.jpg", "turned.png", "turned.webp"):
        image.save(tmp_path / name, exif=tags)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", exif=tags)
    Image.fromarray(np.zeros((40, 20), np.uint16)).save(tmp_path / "grey.png")
    deep_png(tmp_path / "deep.png")
    for name in ("several.gif", "several.png", "several.webp"):
        image.save(tmp_path / name, save_all=True, append_images=[image.rotate(180)])
    expected = {"plain.jpg": (), "upright.jpg": (), "cmyk.jpg": (probe.TURNED, probe.CMYK)}
    for path in sorted(tmp_path.iterdir()):
        kind = {"turned": probe.TURNED, "grey": probe.DEEP, "deep": probe.DEEP, "several": probe.SEVERAL}.get(path.stem)
        opened = open_frame(str(path))
        assert (opened.fault, opened.width, opened.height) == ("", 20, 40)
        assert opened.remarks == expected.get(path.name, (kind,)), path.name
    # No reader turns a frame: all show the stored pixels.
    assert torch.equal(read_frame(str(tmp_path / "turned.png"), (40, 20)), pixels_of(image))
    assert read_frame(str(tmp_path / "turned.jpg"), (40, 20)).shape == (3, 40, 20)


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_metadata_is_no_fault_of_a_picture(tmp_path):
    Image.new("RGB", (20, 40)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert open_frame(str(tmp_path / "a.jpg"))[0::5] == ("", ())


@pytest.mark.slow
def test_two_processes_find_what_one_finds_and_keep_the_order(tmp_path, monkeypatch):
    paths = [picture(tmp_path / f"{number}.png", size=(20 + number, 40)) for number in range(5)]
    paths.insert(2, str(tmp_path / "gone.png"))
    monkeypatch.setattr(probe, "_FILES_PER_JOB", 2)
    before = signal.getsignal(signal.SIGINT)
    opened = open_frames(paths, 2)
    assert list(opened) == paths and opened == open_frames(paths, 0)
    assert open_frames([], 2) == {}
    assert [frame.width for frame in opened.values()] == [20, 21, 0, 22, 23, 24]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_process_that_the_system_ends_is_a_fault_in_one_line(tmp_path, monkeypatch):
    class Broken:
        def __init__(self, *_arguments):
            pass

        def map(self, _function, _jobs):
            raise BrokenProcessPool("a process was terminated abruptly")

        def shutdown(self, cancel_futures):
            pass

    monkeypatch.setattr(probe, "ProcessPoolExecutor", Broken)
    with pytest.raises(InputError, match="ended by the system; DATALOADER.NUM_WORKERS 0") as caught:
        open_frames([str(tmp_path / "a.png")], 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["DATASETS.ROOT", "x"], "unknown key DATASETS.ROOT: did you mean DATASETS.ROOT_DIR?"),
        (["DATASETS.ROOT_DIR"], "options come in pairs KEY VALUE"),
        (["--fix", "x.csv"], "unrecognized arguments: --fix"),
        (["--config-file", "absent.yml"], "config file absent.yml does not exist"),
        (["DATASETS.NAMES", "MARZ"], "DATASETS.NAMES 'MARZ' is not known"),
        (["DATASETS.ROOT_DIR", "nowhere"], "DATASETS.ROOT_DIR nowhere is not a folder"),
        (["DATASETS.EXCLUDE", "nowhere.csv"], "DATASETS.EXCLUDE nowhere.csv does not exist"),
        (["--fix-list", "nowhere/fix.csv"], "--fix-list nowhere/fix.csv cannot be written: there is no folder nowhere"),
        (["--fix-list", "."], "--fix-list . is there and is no list of frames to leave out"),
        (["--fix-list", "notes.txt"], "--fix-list notes.txt is there and is no list of frames to leave out"),
    ],
)
def test_wrong_arguments_are_one_line_and_no_frame_is_opened(tiny_mars, tmp_path, monkeypatch, capsys, flags, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "open_frames", lambda *_: pytest.fail("frames were opened"))
    Path("notes.txt").write_text("mine\n")
    assert check.main(["DATASETS.ROOT_DIR", str(tiny_mars), *flags]) == 2
    report, errors = capsys.readouterr()
    assert report == "" and errors.startswith("error: ") and expected in errors and errors.count("\n") == 1
    assert Path("notes.txt").read_text() == "mine\n" and [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_ctrl_c_is_130_without_traceback_or_fix_list(tiny_mars, tmp_path, monkeypatch, capsys):
    def press(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "open_frame", press)
    flags = ["--fix-list", str(tmp_path / "fix.csv"), "DATASETS.ROOT_DIR", str(tiny_mars)]
    assert check.main([*flags, "DATALOADER.NUM_WORKERS", "0"]) == 130
    assert capsys.readouterr().err.endswith("stopped by Ctrl-C\n") and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_all_processes(tiny_mars, tmp_path):
    script = (
        "import sys; from datasets.check import command as check\n"
        "check._FRAMES_PER_PROCESS = 1\n"
        "sys.exit(check.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "--fix-list", str(tmp_path / "fix.csv")]
    command += ["DATASETS.ROOT_DIR", str(tiny_mars), "DATALOADER.NUM_WORKERS", "2"]
    home = Path(check.__file__).parents[2]
    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
    # A terminal sends Ctrl-C to the whole group: here while the workers start.
    until = time.monotonic() + 60
    while b"opening frames" not in (tmp_path / "errors").read_bytes() and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)  # ends when no worker holds the pipe any more
    said = (tmp_path / "errors").read_text()
    assert process.returncode == 130 and "stopped by Ctrl-C" in said and "Traceback" not in said
    assert not (tmp_path / "fix.csv").exists()
