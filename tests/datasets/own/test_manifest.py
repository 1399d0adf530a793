"""A CSV file of pictures -> tracklets: ids, cameras, boxes, and one clear line per fault."""

import os

import numpy as np
import pytest
from PIL import Image

from datasets.own.manifest import parse_manifest
from tests.datasets.own.manifest_files import (
    BOXED,
    GOOD,
    HEADER,
    brief,
    files,
    parse_all,
    pixels,
    refusal,
    write_table,
)
from utils.errors import InputError, MissingFileError

# ---- lists without boxes


@pytest.mark.parametrize("source", ["/elsewhere/1.jpg", "../2.jpg", "a/../../2.jpg", "../mine2/2.jpg", ".."])
def test_a_row_that_leaves_the_folder_of_the_list_is_refused_unless_the_key_allows_it(tmp_path, source):
    path = write_table(tmp_path / "mine", "train,p,c,t,1.jpg", f"train,p,c,t,{source}")
    expected = f"{path} row 3: {source} lies outside of the list's folder; DATASETS.OUTSIDE allow admits such files"
    assert refusal(path) == expected
    raw, faults = parse_all(path)
    assert [fault.message for fault in faults] == [expected] and len(raw.train[0].frames) == 1
    assert faults[0].frames == (os.path.join(path.parent, source),)  # so that it can be excluded
    assert len(parse_manifest(path, outside="allow").train[0].frames) == 2
    with pytest.raises(InputError, match="DATASETS.OUTSIDE 'yes' must be one of refuse, allow"):
        parse_manifest(path, outside="yes")


def test_paths_that_stay_in_the_folder_of_the_list_are_read_however_they_are_written(tmp_path, monkeypatch):
    own = tmp_path / "mine"
    sources = [f"{own}/1.jpg", "a/../2.jpg", "../mine/3.jpg", "a/...jpg", "~tmp.jpg"]
    write_table(own, *(f"train,p,c,t,{source}" for source in sources))
    monkeypatch.chdir(own)
    for root in (own, "list.csv", "."):
        assert len(parse_manifest(root).train[0].frames) == len(sources)


def test_a_home_folder_in_a_list_is_named_and_not_taken_for_a_folder_called_so(tmp_path):
    for source in ("~/1.jpg", "~root/1.jpg"):
        path = write_table(tmp_path / "mine", f"train,p,c,t,{source}")
        for outside in ("refuse", "allow"):
            with pytest.raises(InputError, match=rf"row 2: {source} begins with ~, .*write the folder out"):
                parse_manifest(path, outside=outside)


def test_texts_become_ids_over_all_splits_and_rows_keep_their_order(tmp_path):
    path = write_table(
        tmp_path / "mine",
        "train,Zoë/1,c10,a,2.jpg",
        "query,carl,c2,a,q.jpg",
        "train,anna b,c2,a,/elsewhere/1.jpg",
        "train,anna b,c2,a,../2.jpg",
        "train,Zoë/1,c10,a,1.jpg",
        "train,Zoë/1,c10,b,1.jpg",
        "gallery,carl,c1,a,g.jpg",
        "gallery,Zoë/1,c1,a,g2.jpg",
    )
    raw = parse_manifest(path, outside="allow")
    folder = str(path.parent)
    assert raw.persons == {1: "Zoë/1", 2: "anna b", 3: "carl"}
    assert raw.cameras == ("c1", "c2", "c10")
    assert [(t.pid, t.camid, t.frames) for t in raw.train] == [
        (1, 2, (f"{folder}/2.jpg", f"{folder}/1.jpg")),
        (2, 1, ("/elsewhere/1.jpg", f"{folder}/../2.jpg")),  # no frame is looked for
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


@pytest.mark.parametrize("header, rows", [
    ("split,person,tracklet,frame", ("train,p,a,1.jpg", "query,q,b,1.jpg")),
    (HEADER, ("train,p,,a,1.jpg", "query,q, ,b,1.jpg")),
])  # fmt: skip
def test_without_cameras_all_are_of_camera_0(tmp_path, header, rows):
    raw = parse_manifest(write_table(tmp_path / "mine", *rows, header=header))
    assert raw.cameras == ()
    assert [t.camid for t in (*raw.train, *raw.query)] == [0, 0]


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


@pytest.mark.parametrize("header", [f"{HEADER},video", "split,person,camera,tracklet,video"])
def test_a_list_of_videos_is_refused_with_the_name_to_use(folder, header):
    path = write_table(folder, "train,p,c,t,5,a.avi", header=header)
    assert refusal(path) == f"{path} has a column video: use DATASETS.NAMES video"


# ---- what is wrong with a row

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
    ("train,p,c,t,pics,0,0,4,4", "pics cannot be opened (Is a directory)"),
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


def test_a_fault_names_the_line_where_its_row_begins_and_in_a_list_without_boxes_the_frame(tmp_path):
    rows = ['train,p,c,"a\nb",1.jpg', "", 'test,p,c,"a\nb",1.jpg', "train,p,c,t,", "train,p,,t,1.jpg"]
    path = write_table(tmp_path / "mine", *rows, "train,p,c,t,1.jpg")
    raw, faults = parse_all(path)
    assert [fault.message.split(":")[0] for fault in faults] == [f"{path} row {number}" for number in (5, 7, 8)]
    assert faults[-1].message.endswith("row 8: column camera is empty although other rows name one")
    assert len(raw.train) == 2 and all(t.camid == 0 for t in raw.train)
    path = write_table(tmp_path / "mine", "train,,c,t,1.jpg", "train,p,c,t,2.jpg", "train,p,c,t,2.jpg")
    _, faults = parse_all(path)
    assert [(fault.frames, fault.root, fault.split) for fault in faults] == [
        ((f"{tmp_path / 'mine'}/1.jpg",), str(tmp_path / "mine"), "train"),
        ((), str(tmp_path / "mine"), "train"),  # leaving out its frame would take the first row's as well
    ]
