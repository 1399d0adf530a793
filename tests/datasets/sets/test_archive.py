"""Tar archives: what is unpacked, and that a hostile or damaged one is refused with nothing written."""

import gzip
import os
import stat
import tarfile

import pytest

from datasets.sets import archive
from datasets.sets.archive import unpack_tar
from datasets.sets.cache_folder import RECORD
from tests.datasets.sets.archive_files import is_image, listing, member, refused, write_tar
from utils.errors import InputError, MissingFileError


@pytest.mark.parametrize(
    ("name", "mode"), [("s.tar", "w"), ("s.tar.gz", "w:gz"), ("s.tgz", "w:gz"), ("s.tar.bz2", "w:bz2"), ("s", "w:xz")]
)
def test_wanted_files_alone_are_unpacked_with_plain_rights(tmp_path, name, mode):
    folder = unpack_tar(write_tar(tmp_path / "data" / name, mode=mode), tmp_path / "cache", is_image)
    assert folder.parent == tmp_path / "cache" and folder.name.startswith("s-")
    assert listing(folder) == {"set/a.png": b"first", "set/deep/b.png": b"second"}
    assert stat.S_IMODE((folder / "set" / "a.png").stat().st_mode) == 0o644
    assert os.listdir(tmp_path / "cache") == [folder.name] and os.listdir(tmp_path / "data") == [name]


def test_harmless_members_are_accepted_under_plain_names(tmp_path):
    extra = [
        member("set", tarfile.DIRTYPE),
        member("set", tarfile.DIRTYPE),
        member("empty/", tarfile.DIRTYPE),
        member("./set//a..b.png"),
        member("set/nowhere", tarfile.SYMTYPE, linkname="gone.png"),
    ]
    asked = []
    path = write_tar(tmp_path / "s.tar", extra=extra)
    folder = unpack_tar(path, tmp_path / "cache", lambda name: asked.append(name) or is_image(name))
    assert asked == ["set/a.png", "set/deep/b.png", "set/notes.txt", "set/a..b.png", "set/nowhere"]
    assert set(listing(folder)) == {"set/a.png", "set/deep/b.png", "set/a..b.png"}
    assert sorted(os.listdir(folder)) == [RECORD, "set"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_wanted_links_become_files_of_their_own(tmp_path, mode):
    extra = [
        member("set/deep/c.png", tarfile.SYMTYPE, linkname="../a.png"),
        member("set/d.png", tarfile.LNKTYPE, linkname="./set/deep/b.png"),
        member("e.png", tarfile.LNKTYPE, linkname="set/deep/c.png"),  # over another link
        member("set/f.png", tarfile.SYMTYPE, linkname="notes.txt"),  # its end is not wanted itself
        member("set/g.png", tarfile.SYMTYPE, linkname="notes.txt"),
        member("set/link.txt", tarfile.SYMTYPE, linkname="a.png"),
    ]
    folder = unpack_tar(write_tar(tmp_path / "s.tar", extra=extra, mode=mode), tmp_path / "cache", is_image)
    assert listing(folder) == {
        "set/a.png": b"first",
        "set/deep/b.png": b"second",
        "set/deep/c.png": b"first",
        "set/d.png": b"second",
        "e.png": b"first",
        "set/f.png": b"no image",
        "set/g.png": b"no image",
    }
    assert all(path.stat().st_nlink == 1 and not path.is_symlink() for path in folder.rglob("*.png"))


@pytest.mark.parametrize(
    "links",
    [
        {"set/x.png": "gone.png"},
        {"set/x.png": "deep"},
        {"set/x.png": "x.png"},
        {"set/x.png": "y.png", "set/y.png": "z.png", "set/z.png": "y.png"},
        {"set/x.png": "folder/b.png", "set/folder": "deep"},
    ],
    ids=str,
)
def test_a_wanted_link_to_no_file_of_the_archive_is_refused(tmp_path, links):
    extra = [member(name, tarfile.SYMTYPE, linkname=end) for name, end in links.items()]
    path = write_tar(tmp_path / "s.tar", extra=extra)
    refused(path, tmp_path / "cache", r"member 'set/x\.png' is a link that leads to no file of the archive")


@pytest.mark.parametrize(
    "bad",
    [
        member("/etc/evil.png"),
        member("\\\\server\\share\\evil.png"),
        member("c:evil.png"),
        member("../evil.png"),
        member("set/deep/../b2.png"),
        member("set/..", tarfile.DIRTYPE),
        member("/", tarfile.DIRTYPE),
        member("set/link", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("set/link", tarfile.SYMTYPE, linkname="../../passwd"),
        member("set/link.png", tarfile.SYMTYPE, linkname="..\\..\\passwd"),
        member("set/link", tarfile.LNKTYPE, linkname="../passwd"),
        member("set/pipe", tarfile.FIFOTYPE),
        member("set/device", tarfile.CHRTYPE),
        member("set/unknown", b"Z"),
        member("./set//a.png"),
        member("set/a.png", tarfile.DIRTYPE),
        member("set/a.png", tarfile.SYMTYPE, linkname="deep/b.png"),
        member("set/a.png/inner.png"),
        member("/".join(["d"] * 3000) + "/x.png"),
    ],
    ids=lambda info: f"{info.name[:30]}-{info.type.decode()}-{info.linkname}",
)
def test_an_unsafe_member_has_the_whole_archive_refused(tmp_path, bad):
    path = write_tar(tmp_path / "data" / "s.tar", extra=[bad])
    refused(path, tmp_path / "cache", "is refused: .*; nothing is unpacked")
    assert sorted(os.listdir(tmp_path)) == ["data"] and os.listdir(tmp_path / "data") == ["s.tar"]
    # The same archive without that member is fine.
    unpack_tar(write_tar(path), tmp_path / "cache", is_image)


def test_the_refusal_names_the_member(tmp_path):
    path = write_tar(tmp_path / "s.tar", extra=[member("../new\nline.png")])
    refused(path, tmp_path / "cache", r"member '\.\./new\\nline\.png' has an unsafe name")
    path = write_tar(tmp_path / "s.tar", extra=[member("set/p\nipe", tarfile.FIFOTYPE)])
    refused(path, tmp_path / "cache", r"'set/p\\nipe' is a special file")


def test_a_python_without_the_filter_is_named(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    refused(write_tar(tmp_path / "s.tar"), tmp_path / "cache", r"needs Python 3\.10\.12, 3\.11\.4 or newer")


def test_a_negative_size_does_not_hang(tmp_path):
    block = bytearray(member("set/neg.png").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (256**12 - 512).to_bytes(12, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path = tmp_path / "s.tar"
    path.write_bytes(member("set/first.png").tobuf() + bytes(block) + bytes(1024))
    refused(path, tmp_path / "cache", "unsafe name or size|damaged")


@pytest.mark.parametrize("kept", [300, 512, 900, 1024, 3000, 3072])
def test_a_cut_archive_is_refused(tmp_path, kept):
    # Each of the three files takes a header and a block, so the marker of the end starts at byte 3072.
    path = write_tar(tmp_path / "s.tar")
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, tmp_path / "cache", "truncated")


def test_a_compressed_archive_that_is_cut_or_has_changed_bytes_is_refused(tmp_path):
    # Noise is stored as it is, so that its checksum alone tells of the change.
    noise = [(f"{number}.png", os.urandom(30_000)) for number in range(3)]
    path = write_tar(tmp_path / "s.tar.gz", files=noise, mode="w:gz")
    whole = path.read_bytes()
    for start in (2_000, 10_000, 50_000, 80_000):
        path.write_bytes(whole[:start])
        refused(path, tmp_path / "cache", "truncated")
        path.write_bytes(whole[:start] + bytes(500) + whole[start + 500 :])
        refused(path, tmp_path / "cache", "damaged")


def test_an_archive_that_is_cut_while_it_is_unpacked_leaves_nothing(tmp_path):
    path = write_tar(tmp_path / "s.tar", files=[("a.png", b"x"), ("b.png", b"y" * 50_000)])

    def cut_then_want(name: str) -> bool:
        os.truncate(path, 20_000)
        return True

    with pytest.raises(InputError, match="truncated"):
        unpack_tar(path, tmp_path / "cache", cut_then_want)
    assert not (tmp_path / "cache").exists()


def test_what_is_no_archive_or_holds_no_image_is_refused(tmp_path):
    for content in (b"", b"not a tar archive " * 100, gzip.compress(b"not a tar either" * 100)):
        (tmp_path / "u.tar").write_bytes(content)
        refused(tmp_path / "u.tar", tmp_path / "cache", "not a tar archive")
    (tmp_path / "s.tar").mkdir()
    refused(tmp_path / "s.tar", tmp_path / "cache", "directory")
    with pytest.raises(MissingFileError, match="nowhere.tar cannot be read .No such file"):
        unpack_tar(tmp_path / "nowhere.tar", tmp_path / "cache", is_image)
    for files in ([], [("notes.txt", b"x")]):
        refused(write_tar(tmp_path / "t.tar", files=files), tmp_path / "cache", "holds none of the files")


@pytest.mark.parametrize("name", ["flow.bin", "set/a.png"])
@pytest.mark.parametrize(("mode", "ending"), [("w:gz", ".tar.gz"), ("w:xz", ".tar.xz"), ("w:bz2", ".tar.bz2")])
def test_an_archive_that_grows_without_bound_is_refused_whatever_is_wanted(tmp_path, monkeypatch, name, mode, ending):
    monkeypatch.setattr(archive, "_LARGEST_SMALL", 2**20)
    files = [("set/b.png", b"second"), (name, bytes(2**21)), ("set/c.png", b"third")]
    path = write_tar(tmp_path / f"s{ending}", files=files, mode=mode)
    refused(path, tmp_path / "cache", "it grows to more than 0.0 GB when it is decompressed; nothing is unpacked")
    monkeypatch.setattr(archive, "_LARGEST_SMALL", 2**22)
    assert "set/c.png" in listing(unpack_tar(path, tmp_path / "cache", is_image))


def test_zeros_without_end_after_the_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_LARGEST_SMALL", 2**20)
    path = write_tar(tmp_path / "s.tar")
    content = path.read_bytes()
    with gzip.open(tmp_path / "s.tar.gz", "wb") as file:
        file.write(content + bytes(2**22))
    refused(tmp_path / "s.tar.gz", tmp_path / "cache", "it grows to more than")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_asks_for_much_memory_is_refused(tmp_path, kind):
    path = tmp_path / "s.tar"
    path.write_bytes(member("set/a.png", kind, size=2**33).tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(path, tmp_path / "cache", "a header of 8,589,934,592 bytes is more than any archive needs")


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_MOST_MEMBERS", 3)
    path = write_tar(tmp_path / "s.tar", extra=[member("set/e.png")])
    refused(path, tmp_path / "cache", "it has more than 3 members")
    assert unpack_tar(write_tar(path), tmp_path / "cache", is_image)


def test_a_member_that_only_claims_to_be_huge_is_refused_before_it_is_skipped(tmp_path):
    path = write_tar(tmp_path / "s.tar.gz", extra=[member("flow.bin", size=2**40)], mode="w:gz")
    refused(path, tmp_path / "cache", "it grows to more than")
