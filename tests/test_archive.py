"""Tar archives: what is unpacked, and that a hostile or damaged one is refused with nothing written."""

import gzip
import os
import stat
import tarfile

import pytest

from datasets.sets.archive import unpack_tar
from datasets.sets.cache_folder import RECORD
from tests.archive_files import is_image, listing, member, refused, write_tar
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


def test_harmless_members_are_accepted(tmp_path):
    extra = [
        member("set", tarfile.DIRTYPE),
        member("set", tarfile.DIRTYPE),
        member("empty/", tarfile.DIRTYPE),
        member("set/a..b.png"),
        member("set/nowhere", tarfile.SYMTYPE, linkname="gone.png"),
    ]
    folder = unpack_tar(write_tar(tmp_path / "s.tar", extra=extra), tmp_path / "cache", is_image)
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


def test_hard_links_that_tar_itself_makes_are_unpacked(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(b"first")
    os.link(tmp_path / "set" / "a.png", tmp_path / "set" / "b.png")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(tmp_path / "set", "set")
        assert sorted(info.islnk() for info in tar if info.isfile() or info.islnk()) == [False, True]
    folder = unpack_tar(tmp_path / "s.tar", tmp_path / "cache", is_image)
    assert listing(folder) == {"set/a.png": b"first", "set/b.png": b"first"}


@pytest.mark.parametrize(
    "links",
    [
        {"set/x.png": "gone.png"},
        {"set/x.png": "."},
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
    expected = r"member 'set/x\.png' is a link that leads to no file of the archive; the archive is not unpacked"
    refused(path, tmp_path / "cache", expected)


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
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a tar archive " * 100, gzip.compress(b"not a tar either" * 100, mtime=0)]
)
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
