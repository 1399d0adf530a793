"""Folders and lists of tracklets without roles -> tracklets, named; one line for what cannot be understood."""

import pytest
from PIL import Image

from datasets.own.unsplit import read_tracklets
from tests.datasets.own.manifest_files import pixels, write_table
from utils.errors import InputError, MissingFileError


def put(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (4, 8)).save(folder / name)


def found(path, **options):
    """(person, camera, name, names of the frames) of each tracklet."""
    return [
        (t.person, t.camera, t.name, [frame.rpartition("/")[2] for frame in t.frames])
        for t in read_tracklets(path, **options)[1]
    ]


def refusal(path, **options):
    with pytest.raises(InputError) as caught:
        read_tracklets(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_of_frames_is_one_tracklet_in_natural_order(tmp_path):
    put(tmp_path / "walk_1", "10.png", "2.png", ".hidden.png")
    (tmp_path / "walk_1" / "notes.txt").write_text("x")
    assert found(tmp_path / "walk_1") == [("", "", "walk_1", ["2.png", "10.png"])]


def test_the_depth_says_what_the_names_of_folders_mean(tmp_path):
    put(tmp_path / "1" / "walk_1", "1.png")  # no camera at this depth
    put(tmp_path / "1" / "walk_2", "1.png")
    assert found(tmp_path / "1") == [("", "", "walk_1", ["1.png"]), ("", "", "walk_2", ["1.png"])]
    put(tmp_path / "2" / "Ann" / "roof_a_7", "1.png")
    put(tmp_path / "2" / "Bob" / "c2_1", "1.png", "2.png")
    put(tmp_path / "2" / "Bob" / "c10_1", "1.png")
    assert found(tmp_path / "2") == [
        ("Ann", "roof_a", "Ann/roof_a_7", ["1.png"]), ("Bob", "c2", "Bob/c2_1", ["1.png", "2.png"]),
        ("Bob", "c10", "Bob/c10_1", ["1.png"]),
    ]  # fmt: skip
    put(tmp_path / "3" / "query" / "Ann" / "7", "1.png")
    assert found(tmp_path / "3") == [("Ann", "", "query/Ann/7", ["1.png"])]
    words = read_tracklets(tmp_path / "2")[0]
    layout = "<person>/<camera>_<tracklet>/"
    found_there = "3 tracklets, 4 frames, 2 persons, cameras c2, c10, roof_a"
    assert words == f"in {tmp_path}/2, read as {layout}: {found_there}"


def test_a_folder_that_could_be_read_in_two_ways_is_refused(tmp_path):
    put(tmp_path / "mixed", "1.png")
    put(tmp_path / "mixed" / "a", "1.png")
    assert "mixed holds both frames and folders, such as a" in refusal(tmp_path / "mixed")
    put(tmp_path / "uneven" / "a", "1.png")
    put(tmp_path / "uneven" / "b" / "c_1", "1.png")
    assert "lie deeper or less deep than those in" in refusal(tmp_path / "uneven")
    put(tmp_path / "deep" / "a" / "b" / "c" / "d", "1.png")
    assert "the deepest layout is <split>/<person>/<camera>_<tracklet>/" in refusal(tmp_path / "deep")
    put(tmp_path / "half" / "a" / "c1_1", "1.png")
    put(tmp_path / "half" / "a" / "2", "1.png")
    assert "half/a/2 names no camera although others do" in refusal(tmp_path / "half")


def test_a_tracklet_without_frames_and_a_path_that_is_not_there_are_named(tmp_path):
    put(tmp_path / "all" / "a", "1.png")
    (tmp_path / "all" / "b").mkdir()
    assert "all/b holds no image (.jpg, " in refusal(tmp_path / "all")
    (tmp_path / "none").mkdir()
    assert "none holds no image" in refusal(tmp_path / "none")
    with pytest.raises(MissingFileError, match="nowhere does not exist; expected is a folder"):
        read_tracklets(tmp_path / "nowhere")
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    assert "clip.mp4 is not UTF-8 text" in refusal(tmp_path / "clip.mp4")


def test_a_list_needs_no_roles_and_may_leave_cells_empty(folder):
    path = write_table(folder, "t1,pics/1.png", "t1,pics/2.png", "t2,pics/1.png", header="tracklet,frame")
    assert found(path) == [("", "", "t1", ["1.png", "2.png"]), ("", "", "t2", ["1.png"])]
    rows = ("val,Ann,c1,1,pics/1.png", ",,,2,pics/2.png", "val,Bob,c1,1,pics/1.png")
    path = write_table(folder, *rows, header="split,person,camera,tracklet,frame")
    assert found(path) == [
        ("Ann", "c1", "val/Ann/c1_1", ["1.png"]), ("", "", "2", ["2.png"]), ("Bob", "c1", "val/Bob/c1_1", ["1.png"]),
    ]  # fmt: skip


@pytest.mark.parametrize("place, name", [(0, "split"), (1, "person"), (2, "camera")])
def test_a_tracklet_whose_cells_are_filled_in_some_rows_alone_is_refused(folder, place, name):
    cells = ["", "", ""]
    cells[place] = "Ann"
    rows = [f"{','.join(cells)},t1,pics/1.png", ",,,t1,pics/2.png"]
    header = "split,person,camera,tracklet,frame"
    advice = "fill it in all rows or in none"
    assert refusal(write_table(folder, *rows, header=header)).endswith(
        f"list.csv row 3: column {name} is empty, but filled in row 2 of tracklet t1: {advice}"
    )
    assert refusal(write_table(folder, *reversed(rows), header=header)).endswith(
        f"list.csv row 3: column {name} is filled, but empty in row 2 of tracklet t1: {advice}"
    )


def test_what_a_list_must_have_is_said(folder):
    needed = (
        "it needs split,person,camera,tracklet,frame and, for boxes, x,y,w,h (split, person, camera may be missing)"
    )
    assert refusal(write_table(folder, "a,b", header="track,frame")).endswith(
        f"lacks tracklet (found: track,frame); {needed}"
    )
    assert "row 2: column tracklet is empty" in refusal(write_table(folder, ",pics/1.png", header="tracklet,frame"))
    assert "has no rows below its header" in refusal(write_table(folder, header="tracklet,frame"))
    assert "lies outside of the list's folder" in refusal(write_table(folder, "1,../x.png", header="tracklet,frame"))
    assert found(write_table(folder, "1,../x.png", header="tracklet,frame"), outside="allow")


def test_boxes_are_cut_into_the_cache(folder, cache):
    path = write_table(folder, "1,pics/1.png,3,4,10,20", header="tracklet,frame,x,y,w,h")
    (tracklet,) = read_tracklets(path, cache)[1]
    assert tracklet.frames[0].startswith(cache)
    with Image.open(tracklet.frames[0]) as crop:
        assert (pixels(1)[4:24, 3:13] == crop).all()
