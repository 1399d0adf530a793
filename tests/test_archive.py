"""Tar archives: what is unpacked and where, and that a hostile or damaged one is refused with nothing written."""

import gzip
import io
import os
import shutil
import stat
import tarfile
from pathlib import Path

import pytest

from datasets import archive as module
from datasets.archive import default_cache_dir, unpack_tar
from utils.errors import InputError, MissingFileError

GOOD = (("set/a.png", b"first"), ("set/deep/b.png", b"second"), ("set/notes.txt", b"no image"))


def is_image(name: str) -> bool:
    return name.endswith(".png")


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, 0o777
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def write_tar(path: Path, files=GOOD, extra=(), mode: str = "w") -> Path:
    """`files` are (name, content), `extra` members without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files:
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return path


def listing(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(path: Path, cache: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        unpack_tar(path, cache, is_image)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize(
    ("name", "mode"), [("s.tar", "w"), ("s.tar.gz", "w:gz"), ("s.tgz", "w:gz"), ("s.tar.bz2", "w:bz2"), ("s", "w:xz")]
)
def test_wanted_files_alone_are_unpacked_with_plain_rights(tmp_path, name, mode):
    folder = unpack_tar(write_tar(tmp_path / "data" / name, mode=mode), tmp_path / "cache", is_image)
    assert folder.parent == tmp_path / "cache" and folder.name.startswith("s-")
    assert listing(folder) == {"set/a.png": b"first", "set/deep/b.png": b"second"}
    assert stat.S_IMODE((folder / "set" / "a.png").stat().st_mode) == 0o644
    assert os.listdir(tmp_path / "cache") == [folder.name] and os.listdir(tmp_path / "data") == [name]


def test_a_finished_folder_is_used_again_until_the_archive_changes(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "s.tar")
    folder = unpack_tar(path, str(tmp_path / "cache"), is_image)
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", lambda *_: pytest.fail("the archive is opened again"))
        assert unpack_tar(path, tmp_path / "cache", is_image) == folder
    write_tar(path, files=[("set/a.png", b"another")])
    changed = unpack_tar(path, tmp_path / "cache", is_image)
    assert changed != folder and listing(changed) == {"set/a.png": b"another"}
    # A copy elsewhere is another archive, the same one by another path is not.
    other = shutil.copy2(path, tmp_path / "t.tar")
    assert unpack_tar(Path(other), tmp_path / "cache", is_image) != changed
    (tmp_path / "link").symlink_to(tmp_path)
    assert unpack_tar(tmp_path / "link" / "s.tar", tmp_path / "cache", is_image) == changed


def test_the_default_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "tf-clip"
    assert unpack_tar(write_tar(tmp_path / "s.tar"), "", is_image).parent == tmp_path / "xdg" / "tf-clip"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert default_cache_dir() == tmp_path / "home" / ".cache" / "tf-clip"


def test_harmless_members_are_accepted_and_links_are_not_unpacked(tmp_path):
    extra = [
        member("set", tarfile.DIRTYPE),
        member("set", tarfile.DIRTYPE),
        member("set/c.png", tarfile.SYMTYPE, linkname="../set/a.png"),
        member("set/d.png", tarfile.LNKTYPE, linkname="set/a.png"),
        member("empty/", tarfile.DIRTYPE),
        member("set/a..b.png"),
    ]
    folder = unpack_tar(write_tar(tmp_path / "s.tar", extra=extra), tmp_path / "cache", is_image)
    assert set(listing(folder)) == {"set/a.png", "set/deep/b.png", "set/a..b.png"}
    assert sorted(os.listdir(folder)) == ["set"]


def test_wanted_gets_plain_names(tmp_path):
    asked = []
    path = write_tar(tmp_path / "s.tar", files=[("./set//a.png", b"x")])
    folder = unpack_tar(path, tmp_path / "cache", lambda name: asked.append(name) or True)
    assert asked == ["set/a.png"] and listing(folder) == {"set/a.png": b"x"}


@pytest.mark.parametrize(
    "bad",
    [
        member("/etc/evil.png"),
        member("//server/share/evil.png"),
        member("\\\\server\\share\\evil.png"),
        member("\\evil.png"),
        member("C:\\evil.png"),
        member("c:evil.png"),
        member("../evil.png"),
        member("set/../../evil.png"),
        member("set/deep/../b2.png"),
        member("set\\..\\..\\evil.png"),
        member("set/..", tarfile.DIRTYPE),
        member("..", tarfile.DIRTYPE),
        member("/", tarfile.DIRTYPE),
        member("set/link.png", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("set/link.png", tarfile.SYMTYPE, linkname="../../passwd"),
        member("set/link.png", tarfile.SYMTYPE, linkname="..\\..\\passwd"),
        member("set/link.png", tarfile.SYMTYPE, linkname="C:/passwd"),
        member("set/link.png", tarfile.LNKTYPE, linkname="/etc/passwd"),
        member("set/link.png", tarfile.LNKTYPE, linkname="../passwd"),
        member("set/pipe.png", tarfile.FIFOTYPE),
        member("set/device", tarfile.CHRTYPE),
        member("set/disk", tarfile.BLKTYPE),
        member("set/unknown.png", b"Z"),
        member("set/a.png"),
        member("./set//a.png"),
        member("set/a.png", tarfile.DIRTYPE),
        member("set/a.png", tarfile.SYMTYPE, linkname="deep/b.png"),
        member("set/a.png/inner.png"),
        member("/".join(["d"] * 3000) + "/x.png"),
    ],
    ids=lambda info: f"{info.name[:30]}-{info.type.decode()}-{info.linkname}",
)
def test_a_hostile_member_has_the_whole_archive_refused(tmp_path, bad):
    path = write_tar(tmp_path / "data" / "s.tar", extra=[bad])
    refused(path, tmp_path / "cache", "member .*not unpacked")
    assert sorted(os.listdir(tmp_path)) == ["data"] and os.listdir(tmp_path / "data") == ["s.tar"]
    # The same archive without that member is fine.
    unpack_tar(write_tar(path), tmp_path / "cache", is_image)


def test_the_refusal_names_the_member(tmp_path):
    path = write_tar(tmp_path / "s.tar", extra=[member("../new\nline.png")])
    refused(path, tmp_path / "cache", r"member '\.\./new\\nline\.png' has a name that leads out")


def test_a_negative_size_does_not_hang(tmp_path):
    block = bytearray(member("set/neg.png").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (256**12 - 512).to_bytes(12, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path = tmp_path / "s.tar"
    path.write_bytes(member("set/first.png").tobuf() + bytes(block) + bytes(1024))
    refused(path, tmp_path / "cache", "negative size|damaged")


@pytest.mark.parametrize("kept", [300, 512, 900, 1024, 1536, 2048, 3000, 3072])
def test_a_cut_archive_is_refused(tmp_path, kept):
    # Each of the three files takes a header and a block, so the marker of the end starts at byte 3072.
    path = write_tar(tmp_path / "s.tar")
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, tmp_path / "cache", "truncated|only the start")


def test_a_cut_compressed_archive_is_refused(tmp_path):
    noise = [(f"set/{number}.png", os.urandom(3000)) for number in range(5)]
    path = write_tar(tmp_path / "s.tar.gz", files=noise, mode="w:gz")
    whole = path.read_bytes()
    for share in (0.02, 0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path, tmp_path / "cache", "truncated|damaged|only the start")


def test_a_compressed_archive_with_changed_bytes_is_refused(tmp_path):
    # Noise is stored as it is, so that its checksum alone tells of the change.
    noise = [(f"{number}.png", os.urandom(30_000)) for number in range(3)]
    path = write_tar(tmp_path / "s.tar.gz", files=noise, mode="w:gz")
    whole = path.read_bytes()
    for start in (10_000, 50_000, 80_000):
        path.write_bytes(whole[:start] + bytes(500) + whole[start + 500 :])
        refused(path, tmp_path / "cache", "damaged")


def test_an_archive_that_is_cut_while_it_is_unpacked_leaves_nothing(tmp_path):
    path = write_tar(tmp_path / "s.tar", files=[("a.png", b"x"), ("b.png", b"y" * 50_000)])

    def cut_then_want(name: str) -> bool:
        os.truncate(path, 20_000)
        return True

    with pytest.raises(InputError, match="truncated"):
        unpack_tar(path, tmp_path / "cache", cut_then_want)
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("content", [b"", b"not a tar archive " * 100, gzip.compress(b"not a tar either" * 100)])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    refused(path, tmp_path / "cache", "not a tar archive")


def test_a_folder_a_missing_file_and_an_archive_without_images_are_refused(tmp_path):
    (tmp_path / "s.tar").mkdir()
    refused(tmp_path / "s.tar", tmp_path / "cache", "directory")
    with pytest.raises(MissingFileError, match="nowhere.tar cannot be read .No such file"):
        unpack_tar(tmp_path / "nowhere.tar", tmp_path / "cache", is_image)
    for files in ([], [("notes.txt", b"x")]):
        refused(write_tar(tmp_path / "t.tar", files=files), tmp_path / "cache", "holds none of the files")


def test_an_archive_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "s.tar")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10))
    # The wanted files hold 5 + 6 bytes.
    refused(path, tmp_path / "cache" / "below", "free; set DATASETS.CACHE_DIR")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=11))
    unpack_tar(path, tmp_path / "cache" / "below", is_image)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="cannot be unpacked into .*cache"):
        unpack_tar(write_tar(tmp_path / "s.tar"), tmp_path / "cache", is_image)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_ctrl_c_and_a_full_disk_leave_nothing(tmp_path, monkeypatch, error):
    path, copy, calls = write_tar(tmp_path / "s.tar"), shutil.copyfileobj, []

    def fail_at_the_second(source, file):
        copy(source, file)
        calls.append(file)
        if len(calls) == 2:
            raise error

    monkeypatch.setattr(shutil, "copyfileobj", fail_at_the_second)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InputError
    with pytest.raises(expected, match="|No space left"):
        unpack_tar(path, tmp_path / "cache", is_image)
    assert len(calls) == 2 and not list((tmp_path / "cache").iterdir())
    monkeypatch.undo()
    assert len(listing(unpack_tar(path, tmp_path / "cache", is_image))) == 2


def test_another_process_that_finished_first_is_fine(tmp_path, monkeypatch):
    path, write = write_tar(tmp_path / "s.tar"), module._write_member

    def write_after_another(tar, info, target):
        write(tar, info, target)
        monkeypatch.setattr(module, "_write_member", write)
        unpack_tar(path, tmp_path / "cache", is_image)

    monkeypatch.setattr(module, "_write_member", write_after_another)
    folder = unpack_tar(path, tmp_path / "cache", is_image)
    assert len(listing(folder)) == 2 and os.listdir(tmp_path / "cache") == [folder.name]
