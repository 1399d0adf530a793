"""The cache of unpacked archives: where it is, when it is used again, and that nothing unfinished stays in it."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from datasets.sets.archive import unpack_tar
from datasets.sets.cache_folder import RECORD, default_cache_dir
from tests.datasets.sets.archive_files import is_image, listing, refused, write_tar
from utils.errors import InputError


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


def replace_file_by_folder(folder: Path) -> None:
    path = folder / "set" / "a.png"
    path.unlink()
    path.mkdir()
    (folder / RECORD).write_text(json.dumps({"files": {"set/a.png": path.stat().st_size}}))


DAMAGES = {
    "no file": lambda folder: (folder / "set" / "a.png").unlink(),
    "short file": lambda folder: os.truncate(folder / "set" / "deep" / "b.png", 2),
    "folder": replace_file_by_folder,
    "no record": lambda folder: (folder / RECORD).unlink(),
    "empty record": lambda folder: (folder / RECORD).write_text('{"files": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_unpacked_again(tmp_path, caplog, damage):
    path = write_tar(tmp_path / "s.tar")
    folder = unpack_tar(path, tmp_path / "cache", is_image)
    DAMAGES[damage](folder)
    assert unpack_tar(path, tmp_path / "cache", is_image) == folder
    assert listing(folder) == {"set/a.png": b"first", "set/deep/b.png": b"second"}
    assert caplog.messages == [f"the cache folder {folder} is damaged; {path} is unpacked again"]
    assert os.listdir(tmp_path / "cache") == [folder.name]
    unpack_tar(path, tmp_path / "cache", is_image)
    assert len(caplog.messages) == 1


def test_a_cache_that_cannot_be_written_and_a_file_called_like_the_record_are_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="cannot be unpacked into .*file"):
        unpack_tar(write_tar(tmp_path / "s.tar"), tmp_path / "file", is_image)
    path = write_tar(tmp_path / "s.tar", files=[(RECORD, b"{}")])
    with pytest.raises(InputError, match=f"{path} cannot be unpacked into .*File exists"):
        unpack_tar(path, tmp_path / "cache", lambda name: True)


def test_an_archive_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "s.tar")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10))
    # The wanted files hold 5 + 6 bytes.
    refused(path, tmp_path / "cache" / "below", "free; set DATASETS.CACHE_DIR")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=11))
    unpack_tar(path, tmp_path / "cache" / "below", is_image)


@pytest.mark.parametrize(
    ("error", "expected", "match"),
    [(KeyboardInterrupt(), KeyboardInterrupt, None), (OSError(28, "No space left"), InputError, "No space left")],
)
def test_ctrl_c_and_a_full_disk_leave_nothing(tmp_path, monkeypatch, error, expected, match):
    path, write, written = write_tar(tmp_path / "s.tar"), tarfile.TarFile.makefile, []

    def fail_at_the_second(tar, info, target):
        write(tar, info, target)
        written.append(target)
        if len(written) == 2:
            raise error

    monkeypatch.setattr(tarfile.TarFile, "makefile", fail_at_the_second)
    with pytest.raises(expected, match=match):
        unpack_tar(path, tmp_path / "cache", is_image)
    assert len(written) == 2 and not (tmp_path / "cache").exists()
    monkeypatch.undo()
    assert len(listing(unpack_tar(path, tmp_path / "cache", is_image))) == 2


@pytest.mark.parametrize("damaged", [False, True])
def test_another_process_that_finished_first_is_fine(tmp_path, monkeypatch, damaged):
    path, write = write_tar(tmp_path / "s.tar"), tarfile.TarFile.makefile
    if damaged:
        DAMAGES["no file"](unpack_tar(path, tmp_path / "cache", is_image))
    of_the_other = []

    def write_after_another(tar, info, target):
        write(tar, info, target)
        monkeypatch.setattr(tarfile.TarFile, "makefile", write)
        of_the_other.append(unpack_tar(path, tmp_path / "cache", is_image).stat().st_ino)

    monkeypatch.setattr(tarfile.TarFile, "makefile", write_after_another)
    folder = unpack_tar(path, tmp_path / "cache", is_image)
    assert len(listing(folder)) == 2 and os.listdir(tmp_path / "cache") == [folder.name]
    assert of_the_other == [folder.stat().st_ino]
