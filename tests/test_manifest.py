"""A CSV file of pictures -> tracklets: ids, cameras, boxes, and one clear line per fault."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import crops
from datasets.exclusion import Exclusions, refuse_unless_excluded
from datasets.manifest import parse_manifest
from datasets.tracklet import RawSplits
from utils.errors import InputError, MissingFileError

HEADER = "split,person,camera,tracklet,frame"
BOXED = f"{HEADER},x,y,w,h"
WIDTH, HEIGHT = 40, 30


def write_table(folder: Path, *rows: str, header: str = HEADER, name: str = "list.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes("".join(f"{row}\n" for row in (header, *rows)).encode())
    return path


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two pictures of noise, so that every crop of them is unique."""
    folder = tmp_path / "mine"
    (folder / "pics").mkdir(parents=True)
    for seed in (1, 2):
        Image.fromarray(pixels(seed)).save(folder / "pics" / f"{seed}.png")
    return folder


@pytest.fixture
def cache(tmp_path) -> str:
    return str(tmp_path / "new" / "cache")


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def parse_all(path: Path, cache: str = "") -> tuple[RawSplits, list]:
    faults = []
    return parse_manifest(path, on_fault=faults.append, cache_dir=cache), faults


def refusal(path: Path, cache: str = "") -> str:
    """The one line, after a look that nothing was written."""
    before = files(path.parent.parent)
    with pytest.raises(InputError) as caught:
        parse_manifest(path, cache_dir=cache)
    assert files(path.parent.parent) == before
    message = str(caught.value)
    assert "\n" not in message
    return message


def brief(raw: RawSplits, split: str) -> list[tuple[str, str, int]]:
    """(person, camera, frames)."""
    return [(raw.person(t.pid), raw.cameras[t.camid], len(t.frames)) for t in getattr(raw, split)]


# ---- lists without boxes


def test_texts_become_ids_over_all_splits_and_rows_keep_their_order(tmp_path):
    path = write_table(
        tmp_path / "mine",
        "train,Zoë/1,c10,a,2.jpg",
        "query,carl,c2,a,q.jpg",
        "train,anna b,c2,a,sub/1.jpg",
        "train,Zoë/1,c10,a,1.jpg",
        "train,Zoë/1,c10,b,1.jpg",
        "gallery,carl,c1,a,g.jpg",
        "gallery,Zoë/1,c1,a,g2.jpg",
    )
    raw = parse_manifest(path)
    folder = str(path.parent)
    assert raw.persons == {1: "Zoë/1", 2: "anna b", 3: "carl"}
    assert raw.cameras == ("c1", "c2", "c10")
    assert [(t.pid, t.camid, t.frames) for t in raw.train] == [
        (1, 2, (f"{folder}/2.jpg", f"{folder}/1.jpg")),
        (2, 1, (f"{folder}/sub/1.jpg",)),
        (1, 2, (f"{folder}/1.jpg",)),
    ]
    assert [(t.pid, t.camid) for t in raw.query] == [(3, 1)]
    assert [(t.pid, t.camid) for t in raw.gallery] == [(3, 0), (1, 0)]
    assert (raw.root, raw.gallery_includes_query) == (folder, False)
    assert files(path.parent) == ["list.csv"]


def test_columns_in_any_order_further_columns_quotes_bom_and_line_ends_are_read(tmp_path):
    path = tmp_path / "list.csv"
    text = (
        ' Frame ,note,TRACKLET,camera,person,Split,,\r\n1.jpg,"two\r\nlines",t, c1 , "Doe, ""J""",TRAIN,,\r\n'
        "\r\n,,,,,,,\r\n./2.jpg,x,t,c1,\"Doe, \"\"J\"\"\",train ,,,,\r\n"
    )
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    raw = parse_manifest(path)
    assert raw.persons == {1: 'Doe, "J"'}
    assert [t.frames for t in raw.train] == [(f"{tmp_path}/1.jpg", f"{tmp_path}/2.jpg")]


def test_row_numbers_are_those_of_the_line_where_a_row_begins(tmp_path):
    rows = ['train,p,c,"a\nb",1.jpg', "", 'test,p,c,"a\nb",1.jpg', "train,p,c,t,", "train,p,c,t,1.jpg"]
    path = write_table(tmp_path / "mine", *rows)
    raw, faults = parse_all(path)
    assert [fault.message.split(":")[0] for fault in faults] == [f"{path} row {number}" for number in (5, 7)]
    assert len(raw.train) == 2


def test_the_file_may_be_named_by_its_folder(tmp_path):
    path = write_table(tmp_path / "mine", "train,p,c,t,1.jpg")
    (tmp_path / "mine" / "._list.csv").write_bytes(b"\0")
    raw = parse_manifest(path)
    assert parse_manifest(str(path.parent)) == raw
    other = write_table(tmp_path / "mine", name="b.csv")
    assert "several CSV files (b.csv, list.csv)" in refusal(path.parent)
    other.unlink()
    write_table(tmp_path / "mine", "train,other,c,t,1.jpg", name="manifest.csv")
    assert parse_manifest(path.parent).persons == {1: "other"}


def test_an_absolute_path_is_kept_and_no_frame_is_looked_for(tmp_path):
    path = write_table(tmp_path / "mine", "train,p,c,t,/elsewhere/1.jpg", "train,p,c,t,../2.jpg")
    assert parse_manifest(path).train[0].frames == ("/elsewhere/1.jpg", f"{tmp_path / 'mine'}/../2.jpg")


@pytest.mark.parametrize("header, rows", [
    ("split,person,tracklet,frame", ("train,p,a,1.jpg", "query,q,b,1.jpg")),
    (HEADER, ("train,p,,a,1.jpg", "query,q, ,b,1.jpg")),
])  # fmt: skip
def test_without_cameras_all_are_of_camera_0(tmp_path, header, rows):
    raw = parse_manifest(write_table(tmp_path / "mine", *rows, header=header))
    assert raw.cameras == ()
    assert [t.camid for t in (*raw.train, *raw.query)] == [0, 0]


def test_a_row_without_camera_among_others_is_a_fault(tmp_path):
    path = write_table(tmp_path / "mine", "train,p,,t,1.jpg", "train,q,c,t,2.jpg")
    assert refusal(path) == f"{path} row 2: column camera is empty although other rows name one"
    raw, faults = parse_all(path)
    assert len(faults) == 1 and brief(raw, "train") == [("q", "c", 1)] and raw.persons == {1: "q"}


# ---- what is wrong with the file


def test_a_file_that_is_not_there_is_named_with_the_columns_expected(tmp_path):
    for path in (tmp_path / "list.csv", tmp_path):
        with pytest.raises(MissingFileError, match=f"{path} .*split,person,camera,tracklet,frame"):
            parse_manifest(path)


@pytest.mark.parametrize("content, expected", [
    (b"", "is empty; expected are the columns split,person"),
    (b"\n\n", "is empty"),
    (HEADER.encode(), "has no rows below its header"),
    (f"{HEADER}\n,,,,\n".encode(), "has no rows below its header"),
    (f"{HEADER}\ntrain,Jos\xe9,c,t,1.jpg\n".encode("latin-1"), "row 2 is not UTF-8 text"),
    (f"{HEADER}\ntrain,p,c,t,1.jpg\n".encode("utf-16"), "row 1 is not UTF-8 text"),
    (f"{HEADER}\ntrain,p,c,t,1.jpg\n".encode("utf-16-le"), "not UTF-8 text (it holds zero bytes)"),
    (f"{HEADER}\ntrain,p,c,t,1.jpg\n".replace(",", ";").encode(), "separated by semicolons; save it with commas"),
    (f"{HEADER}\ntrain,p,c,t,1.jpg\n".replace(",", "\t").encode(), "separated by tabs; save it with commas"),
    (b"split,id,camera,frame\ntrain,p,c,1.jpg\n", "lacks person, tracklet (found: split,id,camera,frame)"),
    (b"train,p,c,t,1.jpg\ntrain,p,c,t,2.jpg\n", "lacks split, person, tracklet, frame"),
    (f"{HEADER},x,y,w\ntrain,p,c,t,1.jpg,1,1,1\n".encode(), "lacks h: boxes need all four columns x,y,w,h"),
    (f"{HEADER},Person\ntrain,p,c,t,1.jpg,q\n".encode(), "has the column person twice"),
    (f'{HEADER}\ntrain,p,c,t,1.jpg\ntrain,"p,c,t,2.jpg\n'.encode(), "row 3: cannot be read as CSV"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused_even_by_a_tolerant_reader(tmp_path, content, expected):
    path = tmp_path / "mine" / "list.csv"
    path.parent.mkdir()
    path.write_bytes(content)
    message = refusal(path)
    assert str(path) in message and expected in message
    with pytest.raises(InputError, match="list.csv"):
        parse_all(path)


# ---- what is wrong with a row

GOOD = "train,p,c,t,pics/1.png,0,0,4,4"
FAULTY_ROWS = [
    ("test,p,c,t,pics/1.png,0,0,4,4", "split is 'test'; it must be one of train, query, gallery"),
    ("train,,c,t,pics/1.png,0,0,4,4", "column person is empty"),
    ("train,p,c, ,pics/1.png,0,0,4,4", "column tracklet is empty"),
    ("train,p,c,t,,0,0,4,4", "column frame is empty"),
    ('train,p,c,t,"pics/1.png\nx",0,0,4,4', "column frame holds a line break"),
    ("train,p,c,t,pics/1.png,0,0,4", "has 8 cells, the header 9"),
    ("train,Doe, J,c,t,pics/1.png,0,0,4,4", "has 10 cells, the header 9; put texts with a comma in quotes"),
    (GOOD, "repeats row 2"),
    ("train,p,c,t,./pics/1.png,0.4,0,4.0,4.4", "repeats row 2"),
    ("train,p,c,t,pics/1.png,1,,4,4", "has some of x,y,w,h but not all"),
    ("train,p,c,t,pics/1.png,-1,0,4,4", "box -1,0,4,4 (x,y,w,h) begins outside of the picture"),
    ("train,p,c,t,pics/1.png,0,-0.2,4,4", "begins outside of the picture"),
    ("train,p,c,t,pics/1.png,0,0,0,4", "box 0,0,0,4 (x,y,w,h) is empty"),
    ("train,p,c,t,pics/1.png,0,0,4,-4", "is empty"),
    ("train,p,c,t,pics/1.png,1.1,0,0.2,4", "holds no whole pixel"),
    ("train,p,c,t,pics/1.png,a,0,4,4", "x is 'a'; it must be a number"),
    ("train,p,c,t,pics/1.png,0,nan,4,4", "y is 'nan'; it must be a number"),
    ("train,p,c,t,pics/1.png,0,0,inf,4", "w is 'inf'; it must be a number"),
    ("train,p,c,t,pics/1.png,0,0,4,1e999", "h is '1e999'; it must be a number"),
    ('train,p,c,t,pics/1.png,"1,5",0,4,4', "x is '1,5'; it must be a number"),
    ("train,p,c,t,pics/1.png,1_0,0,4,4", "x is '1_0'; it must be a number"),
    ("train,p,c,t,pics/1.png,40,0,4,4", "1.png is 40x30 pixels; the box 40,0,4,4 (x,y,w,h) lies outside"),
    ("train,p,c,t,pics/1.png,0,30,4,4", "1.png is 40x30 pixels; the box 0,30,4,4 (x,y,w,h) lies outside"),
    ("train,p,c,t,pics/9.png,0,0,4,4", "pics/9.png does not exist"),
    ("train,p,c,t,pics,0,0,4,4", "pics is not a file"),
    ("train,p,c,t,pics/broken.png,0,0,4,4", "pics/broken.png cannot be decoded as a picture"),
    ("train,p,c,t,pics/short.png,0,0,4,4", "pics/short.png cannot be decoded as a picture"),
]  # fmt: skip


@pytest.mark.parametrize("row, expected", FAULTY_ROWS)
def test_a_faulty_row_is_one_line_nothing_is_written_and_a_tolerant_reader_leaves_it_out(folder, cache, row, expected):
    (folder / "pics" / "broken.png").write_bytes(b"no picture")
    (folder / "pics" / "short.png").write_bytes((folder / "pics" / "1.png").read_bytes()[:2000])
    path = write_table(folder, GOOD, row, "query,q,c,t,pics/2.png,1,2,3,4", header=BOXED)
    message = refusal(path, cache)
    assert message.startswith(f"{path} row 3: ") and expected in message
    raw, faults = parse_all(path, cache)
    assert [fault.message for fault in faults] == [message]
    assert (brief(raw, "train"), brief(raw, "query")) == ([("p", "c", 1)], [("q", "c", 1)])
    crop = np.array(Image.open(raw.query[0].frames[0]))
    assert np.array_equal(crop, pixels(2)[2:6, 1:4])


def test_faults_of_a_list_without_boxes_name_the_frame_so_that_it_can_be_left_out(tmp_path):
    path = write_table(tmp_path / "mine", "train,,c,t,1.jpg", "train,p,c,t,2.jpg", "train,p,c,t,2.jpg")
    _, faults = parse_all(path)
    assert [(fault.frames, fault.root, fault.split) for fault in faults] == [
        ((f"{tmp_path / 'mine'}/1.jpg",), str(tmp_path / "mine"), "train"),
        ((), str(tmp_path / "mine"), "train"),  # leaving out its frame would take the first row's as well
    ]


# ---- crops


def test_crops_are_exact_stable_in_name_and_below_the_root(folder, cache):
    path = write_table(
        folder,
        "train,p,c1,t,pics/1.png,3,4,10,12",
        "train,p,c1,t,pics/2.png,30,18,10,12",  # up to the very edge
        "train,p,c1,t,pics/1.png,2.4,3.5,5.2,6",  # edges 2.4..7.6 and 3.5..9.5
        "query,q,c2,t,pics/1.png,,,,",
        header=BOXED,
    )
    raw = parse_manifest(path, cache_dir=cache)
    names = [os.path.relpath(frame, raw.root) for frame in (*raw.train[0].frames, *raw.query[0].frames)]
    assert names == ["pics/1.png/0_3_4_10_12.png", "pics/2.png/0_30_18_10_12.png", "pics/1.png/0_2_4_6_6.png",
                     "pics/1.png/0_whole.png"]  # fmt: skip
    expected = [pixels(1)[4:16, 3:13], pixels(2)[18:30, 30:40], pixels(1)[4:10, 2:8], pixels(1)]
    for name, crop in zip(names, expected):
        with Image.open(Path(raw.root, name)) as image:
            assert image.mode == "RGB" and np.array_equal(np.array(image), crop)
    assert Path(raw.root).parent == Path(cache) and Path(raw.root).name.startswith("list-")
    assert os.listdir(cache) == [Path(raw.root).name]


def test_unusual_picture_names_stay_below_the_cache_folder_and_apart(folder, cache):
    shutil.copy(folder / "pics" / "1.png", folder.parent / "out.png")
    shutil.copy(folder / "pics" / "2.png", folder / "a:b %2E é.png")
    (folder / "%2E%2E").mkdir()
    shutil.copy(folder / "pics" / "2.png", folder / "%2E%2E" / "out.png")
    sources = ["../out.png", "a:b %2E é.png", "%2E%2E/out.png", str(folder / "pics" / "1.png")]
    path = write_table(folder, *(f"train,p,c,t,{source},0,0,9,9" for source in sources), header=BOXED)
    raw = parse_manifest(path, cache_dir=cache)
    frames = raw.train[0].frames
    assert len(set(frames)) == 4
    for frame, seed in zip(frames, (1, 2, 2, 1)):
        assert Path(frame).resolve().is_relative_to(Path(raw.root).resolve())
        assert np.array_equal(np.array(Image.open(frame)), pixels(seed)[:9, :9])


def test_a_finished_folder_is_used_again_without_opening_a_picture(folder, cache, monkeypatch):
    path = write_table(folder, GOOD, header=BOXED)
    first = parse_manifest(path, cache_dir=cache)

    def refused(*_):
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(crops.Image, "open", refused)
    assert parse_manifest(path, cache_dir=cache) == first
    assert parse_manifest(folder, cache_dir=cache) == first


def test_another_list_picture_or_version_gives_another_folder(folder, cache, monkeypatch):
    path = write_table(folder, GOOD, header=BOXED)
    roots = [parse_manifest(path, cache_dir=cache).root]
    write_table(folder, GOOD, "train,p,c,t,pics/2.png,0,0,4,4", header=BOXED)
    roots.append(parse_manifest(path, cache_dir=cache).root)
    Image.fromarray(pixels(3)).save(folder / "pics" / "1.png")
    os.utime(folder / "pics" / "1.png", ns=(1, 1))
    again = parse_manifest(path, cache_dir=cache)
    assert np.array_equal(np.array(Image.open(again.train[0].frames[0])), pixels(3)[:4, :4])
    roots.append(again.root)
    other = write_table(folder.parent / "other", GOOD.replace("pics", str(folder / "pics")), header=BOXED)
    roots.append(parse_manifest(other, cache_dir=cache).root)
    monkeypatch.setattr(crops, "_VERSION", crops._VERSION + 1)
    roots.append(parse_manifest(path, cache_dir=cache).root)
    assert len(set(roots)) == 5
    assert {Path(root).name.rpartition("-")[0] for root in roots} == {"list"}
    (folder / "pics" / "1.png").unlink()
    assert "pics/1.png does not exist" in refusal(path, cache)


def test_the_same_list_in_two_folders_does_not_collide(folder, cache):
    twin = folder.parent / "twin"
    shutil.copytree(folder, twin)
    Image.fromarray(pixels(7)).save(twin / "pics" / "1.png")
    raws = [parse_manifest(write_table(place, GOOD, header=BOXED), cache_dir=cache) for place in (folder, twin)]
    for raw, seed in zip(raws, (1, 7)):
        assert np.array_equal(np.array(Image.open(raw.train[0].frames[0])), pixels(seed)[:4, :4])


def test_faults_are_reported_again_when_the_folder_is_used_again(folder, cache):
    rows = [GOOD, "train,p,c,t,pics/1.png,40,0,4,4", "gallery,q,c,t,pics/1.png,40,0,4,4",
            "query,q,c,t,pics/9.png,0,0,4,4", "query,q,c,t,pics/9.png,,,,"]  # fmt: skip
    path = write_table(folder, *rows, header=BOXED)
    first, faults = parse_all(path, cache)
    assert [fault.message[len(str(path)) :].split(":")[0] for fault in faults] == [" row 3 (and 1 more)",
                                                                                   " row 5 (and 1 more)"]
    assert [(fault.root, fault.split) for fault in faults] == [(first.root, ""), (first.root, "query")]
    frames = [tuple(os.path.relpath(frame, first.root) for frame in fault.frames) for fault in faults]
    assert frames == [("pics/1.png/0_40_0_4_4.png",), ("pics/9.png/0_0_0_4_4.png", "pics/9.png/0_whole.png")]
    second, again = parse_all(path, cache)
    assert (second, again) == (first, faults)
    assert "row 3 (and 1 more)" in refusal(path, cache)


def test_a_run_passes_over_the_faults_of_crops_that_it_leaves_out(folder, cache):
    path = write_table(folder, GOOD, "train,p,c,t,pics/1.png,40,0,4,4", "query,p,c,t,pics/9.png,0,0,4,4", header=BOXED)
    names = [("train", "pics/1.png/0_40_0_4_4.png"), ("query", "pics/9.png/0_0_0_4_4.png")]
    for _ in range(2):  # the crops are cut, then used again
        for known in ([], names[:1], names[1:]):
            with pytest.raises(InputError, match=f"{path} row {4 if known == names[:1] else 3}: "):
                parse_manifest(path, on_fault=refuse_unless_excluded(Exclusions(known)), cache_dir=cache)
        raw = parse_manifest(path, on_fault=refuse_unless_excluded(Exclusions(names)), cache_dir=cache)
        assert brief(raw, "train") == [("p", "c", 1)] and not raw.query


def test_a_picture_with_several_boxes_is_decoded_once(folder, cache, monkeypatch):
    opened = []
    real = Image.open
    monkeypatch.setattr(crops.Image, "open", lambda path: opened.append(path) or real(path))
    rows = [f"train,p{x},c,t,pics/{seed}.png,{x},0,4,4" for x in range(5) for seed in (1, 2)]
    raw = parse_manifest(write_table(folder, *rows, header=BOXED), cache_dir=cache)
    assert sorted(opened) == [str(folder / "pics" / "1.png"), str(folder / "pics" / "2.png")]
    assert sum(len(t.frames) for t in raw.train) == 10


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_after_an_interrupt_or_a_full_disk_nothing_is_left(folder, cache, monkeypatch, error):
    path = write_table(folder, GOOD, "train,p,c,t,pics/2.png,0,0,4,4", header=BOXED)
    real = Image.Image.save

    def save(image, target, **options):
        if "2.png" in str(target):
            raise error
        real(image, target, **options)

    monkeypatch.setattr(Image.Image, "save", save)
    before = files(folder.parent)
    with pytest.raises((KeyboardInterrupt, InputError)) as caught:
        parse_manifest(path, cache_dir=cache)
    assert files(folder.parent) == before
    if isinstance(error, OSError):
        assert str(caught.value) == f"crops cannot be written into the cache folder {cache} (No space left on device)"


def test_a_cache_that_cannot_be_written_or_is_damaged_is_named(folder, tmp_path):
    path = write_table(folder, GOOD, header=BOXED)
    (tmp_path / "file").write_bytes(b"")
    assert f"cache folder {tmp_path / 'file'}" in refusal(path, str(tmp_path / "file"))
    raw = parse_manifest(path, cache_dir=str(tmp_path / "cache"))
    (Path(raw.root) / "record.json").write_text("[]")
    assert f"{raw.root} is not a finished cache of crops" in refusal(path, str(tmp_path / "cache"))


def test_a_process_that_is_slower_takes_the_folder_of_the_faster_one(folder, cache, monkeypatch):
    path = write_table(folder, GOOD, header=BOXED)
    results = []

    def while_another_finishes(*arguments):
        monkeypatch.setattr("datasets.manifest.cut_pictures", crops.cut_pictures)
        results.append(parse_manifest(path, cache_dir=cache))
        crops.cut_pictures(*arguments)

    monkeypatch.setattr("datasets.manifest.cut_pictures", while_another_finishes)
    results.append(parse_manifest(path, cache_dir=cache))
    assert results[0] == results[1]
    assert os.listdir(cache) == [Path(results[0].root).name]
    assert json.loads(Path(results[0].root, "record.json").read_text()) == {"faults": []}


def test_a_box_that_reaches_beyond_the_picture_ends_at_its_edge(folder, cache, caplog):
    path = write_table(folder, GOOD, "train,p,c,t,pics/1.png,37,28,9,4", header=BOXED)
    raw, faults = parse_all(path, cache)
    assert faults == []
    crop = np.array(Image.open(raw.train[0].frames[1]))
    assert np.array_equal(crop, pixels(1)[28:30, 37:40])
    assert caplog.messages == ["1 boxes reach beyond their picture and end at its edge (rows 3)"]
