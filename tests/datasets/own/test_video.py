"""A CSV file of boxes in videos -> tracklets of crops: the right frame, the right pixels, one clear line per fault."""

import os
import shutil
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from datasets.frames import modes
from datasets.own import video as video_module
from datasets.own.manifest import parse_video
from tests.datasets.own import manifest_files
from tests.datasets.own.manifest_files import files
from tests.datasets.own.video_files import FRAMES, SIDE, picture, pixels_of, read_number, write_table, write_video

parse_all = partial(manifest_files.parse_all, parse=parse_video)
refusal = partial(manifest_files.refusal, parse=parse_video)


@pytest.fixture
def folder(tmp_path) -> Path:
    write_video(tmp_path / "mine" / "cam1" / "a.mkv", "ffv1", "bgr0")
    return tmp_path / "mine"


@pytest.fixture
def cache(tmp_path) -> str:
    return str(tmp_path / "new" / "cache")


# ---- the right pixels


@pytest.mark.parametrize("name, codec, pixel_format", [
    ("a.mkv", "ffv1", "bgr0"),
    ("a.avi", "png", "rgb24"),
    ("a.avi", "huffyuv", "rgb24"),
])  # fmt: skip
def test_crops_of_a_lossless_video_are_exact_to_the_pixel(tmp_path, cache, name, codec, pixel_format):
    write_video(tmp_path / "mine" / name, codec, pixel_format)
    boxes = {0: (0, 0, 64, 48), 7: (3, 5, 20, 30), 8: (44, 18, 20, 30), 19: (10, 8, 1, 1)}
    rows = [f"train,p,c,t,{name},{number},{','.join(map(str, box))}" for number, box in boxes.items()]
    raw = parse_video(write_table(tmp_path / "mine", *rows, f"query,p,c,t,{name},3,,,,"), cache_dir=cache)
    for frame, (number, (x, y, w, h)) in zip(raw.train[0].frames, boxes.items(), strict=True):
        assert np.array_equal(pixels_of(frame), picture(number)[y : y + h, x : x + w])
    assert np.array_equal(pixels_of(raw.query[0].frames[0]), picture(3))


@pytest.mark.parametrize("name, codec, options", [
    ("a.avi", "mpeg4", {"qmin": "1", "qmax": "2"}),
    ("a.mp4", "libx264", {"bf": "3", "g": "10", "crf": "4"}),
    ("a.mkv", "libx264", {"bf": "2", "x264-params": "open-gop=1:keyint=6", "crf": "4"}),
])  # fmt: skip
def test_frames_count_in_the_order_in_which_they_are_shown(tmp_path, cache, name, codec, options):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    times = write_video(tmp_path / "mine" / name, codec, "yuv420p", **options)
    if codec == "libx264":
        assert times != sorted(times)  # B-frames: the file has another order than the display
    path = write_table(tmp_path / "mine", *(f"train,p,c,t,{name},{number},0,0,64,48" for number in range(FRAMES)))
    crops = [pixels_of(frame) for frame in parse_video(path, cache_dir=cache).train[0].frames]
    assert [read_number(crop) for crop in crops] == list(range(FRAMES))
    below = [np.abs(crop[SIDE:].astype(int) - picture(number)[SIDE:]).mean() for number, crop in enumerate(crops)]
    assert max(below) < 12


def test_frames_of_a_tracklet_are_sorted_and_ids_span_all_splits(folder, cache):
    write_video(folder / "b.mkv", "ffv1", "bgr0", frames=5)
    path = write_table(
        folder,
        "query,carl,c10,t,b.mkv,4,0,0,64,8",
        "train,Zoë,c2,1,cam1/a.mkv,11,0,0,64,8",
        "gallery,carl,c2,t,cam1/a.mkv,3,0,0,64,8",
        "train,Zoë,c2,1,./cam1/a.mkv,2.0,0,0,64,8",
        "train,Zoë,c2,2,b.mkv,0,0,0,64,8",
        "train,Zoë,c2,1,cam1/a.mkv,9,0,0,64,8",
    )
    raw = parse_video(path.parent, cache_dir=cache)
    assert (raw.persons, raw.cameras) == ({1: "Zoë", 2: "carl"}, ("c2", "c10"))
    assert not raw.gallery_includes_query
    shown = [[read_number(pixels_of(frame)) for frame in t.frames] for t in (*raw.train, *raw.query, *raw.gallery)]
    assert shown == [[2, 9, 11], [0], [4], [3]]
    assert [(t.pid, t.camid) for t in (*raw.query, *raw.gallery)] == [(2, 1), (2, 0)]
    assert os.path.relpath(raw.train[0].frames[1], raw.root) == "cam1/a.mkv/9_0_0_64_8.png"


def test_each_video_is_decoded_once_and_no_further_than_needed_and_then_never_again(folder, cache, monkeypatch):
    decoded = []
    real = video_module._frames

    def counted(source):
        for frame in real(source):
            decoded.append(source)
            yield frame

    monkeypatch.setattr(video_module, "_frames", counted)
    rows = [f"train,p{x},c,t,cam1/a.mkv,{number},{x},0,4,4" for x in range(3) for number in (6, 2)]
    path = write_table(folder, *rows)
    first = parse_video(path, cache_dir=cache)
    assert decoded == [str(folder / "cam1" / "a.mkv")] * 7  # frames 0 to 6
    assert parse_video(path, cache_dir=cache) == first
    assert len(decoded) == 7


def test_boxes_that_reach_beyond_the_frame_are_clipped_and_warned_of_at_reuse(folder, cache, caplog):
    rows = [f"train,p,c,t,cam1/a.mkv,{number},{x},0,8,8" for number, x in ((4, 60), (5, 56), (2, 60))]
    path = write_table(folder, *rows)
    first = parse_video(path, cache_dir=cache)
    warning = "2 boxes reach beyond their picture and end at its edge (rows 2, 4)"
    assert caplog.messages == [warning]
    assert parse_video(path, cache_dir=cache) == first
    assert caplog.messages == [warning] * 2
    assert np.array_equal(pixels_of(first.train[0].frames[1]), picture(4)[:8, 60:])


# ---- what is wrong with a row or a video

GOOD = "train,p,c,t,cam1/a.mkv,4,0,0,9,9"
FAULTY_ROWS = [
    ("train,p,c,t,,5,0,0,4,4", "column video is empty"),
    ("train,p,c,t,cam1/a.mkv,,0,0,4,4", "column frame is empty"),
    ("train,p,c,t,cam1/a.mkv,-1,0,0,4,4", "frame is -1; it must be a whole number"),
    ("train,p,c,t,cam1/a.mkv,1.5,0,0,4,4", "frame is 1.5; it must be a whole number"),
    ("train,p,c,t,cam1/a.mkv,first,0,0,4,4", "frame is 'first'; it must be a number"),
    ("train,p,c,t,cam1/a.mkv,1e300,0,0,4,4", "frame is '1e300'; it must be a number"),
    ("train,p,c,t,cam1/a.mkv,4,1,1,4,4", "repeats row 2 (same frame in the same tracklet)"),
    ("train,p,c,t,cam1/b.mkv,5,0,0,4,4", "is of video cam1/b.mkv, but row 2 of the same tracklet of cam1/a.mkv"),
    ("train,p,,t,cam1/a.mkv,5,0,0,4,4", "column camera is empty"),
    ("train,p,c,t,cam1/a.mkv,5,0,0,,4", "has some of x,y,w,h but not all"),
    ("train,p,c,t,cam1/a.mkv,5,64,0,5,4", "a.mkv frame 5 is 64x48 pixels; the box 64,0,5,4 (x,y,w,h) lies outside"),
    ("train,p,c,t,cam1/a.mkv,20,0,0,4,4", "a.mkv has 20 frames, but none of number 20 (the first is 0)"),
    ("train,p,c,u,cam1/none.mkv,5,0,0,4,4", "cam1/none.mkv does not exist"),
    ("train,p,c,u,cam1,5,0,0,4,4", "cam1 cannot be opened (Is a directory)"),
    ("train,p,c,u,cam1/text.avi,5,0,0,4,4", "cam1/text.avi cannot be decoded as a video from frame 0"),
    ("train,p,c,u,cam1/empty.avi,5,0,0,4,4", "cam1/empty.avi cannot be decoded as a video from frame 0"),
    ("train,p,c,u,cam1/sound.wav,5,0,0,4,4", "cam1/sound.wav cannot be decoded as a video from frame 0 (the first is 0)"
     " on (it holds no video)"),
]  # fmt: skip


@pytest.mark.parametrize("row, expected", FAULTY_ROWS)
def test_a_faulty_row_is_one_line_nothing_is_written_and_a_tolerant_reader_leaves_it_out(folder, cache, row, expected):
    (folder / "cam1" / "text.avi").write_bytes(b"no video\n" * 100)
    (folder / "cam1" / "empty.avi").write_bytes(b"")
    write_sound(folder / "cam1" / "sound.wav")
    path = write_table(folder, GOOD, row, "query,q,c,t,cam1/a.mkv,7,1,2,3,4")
    message = refusal(path, cache)
    assert message.startswith(f"{path} row 3: ") and expected in message
    raw, faults = parse_all(path, cache)
    assert [fault.message for fault in faults] == [message]
    assert [len(t.frames) for t in raw.train] == [1]
    assert np.array_equal(pixels_of(raw.query[0].frames[0]), picture(7)[2:6, 1:4])
    assert parse_all(path, cache) == (raw, faults)


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


@pytest.mark.parametrize("header, missing", [
    ("split,person,camera,tracklet,frame", "lacks video"),
    ("split,person,camera,tracklet,video,x,y,w,h", "lacks frame"),
    ("split,person,camera,tracklet,video,frame,x,y,w", "lacks h"),
])  # fmt: skip
def test_missing_columns_are_named(tmp_path, cache, header, missing):
    path = write_table(tmp_path / "mine", ",".join("1" for _ in header.split(",")), header=header)
    assert f"{path} {missing}" in refusal(path, cache)


def test_a_missing_video_is_one_fault_for_all_rows_and_one_that_ends_early_one_for_each_frame(folder, cache):
    rows = [f"{split},p,c,u,none.avi,{number},0,0,4,4" for split in ("train", "query") for number in (3, 1)]
    raw, faults = parse_all(write_table(folder, GOOD, *rows), cache)
    assert [fault.message.partition(": ")[0].partition(" row ")[2] for fault in faults] == ["3 (and 3 more)"]
    names = {os.path.relpath(frame, raw.root) for frame in faults[0].frames}
    assert names == {"none.avi/1_0_0_4_4.png", "none.avi/3_0_0_4_4.png"}
    assert (faults[0].root, faults[0].split, len(raw.query)) == (raw.root, "", 0)
    rows = [f"train,p{number},,t,cam1/a.mkv,{number}" for number in (25, 19, 22)]
    # Without columns of a box a frame is taken whole.
    raw, faults = parse_all(write_table(folder, *rows, header="split,person,camera,tracklet,video,frame"), cache)
    assert [fault.message.partition(" row ")[2].split(":")[0] for fault in faults] == ["4", "2"]
    assert raw.cameras == () and np.array_equal(pixels_of(raw.train[0].frames[0]), picture(19))


@pytest.mark.parametrize("codec, pixel_format", [
    ("png", "rgb24"),  # FFmpeg reports an error
    ("mpeg4", "yuv420p"),  # FFmpeg patches the picture and says so
])  # fmt: skip
def test_a_video_damaged_in_the_middle_is_a_fault_from_there_on(tmp_path, cache, codec, pixel_format):
    path = tmp_path / "mine" / "a.avi"
    count, damaged = 60, 40
    write_video(path, codec, pixel_format, frames=count)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][damaged]
        middle = packet.pos + packet.size // 2
    content = bytearray(path.read_bytes())
    content[middle : middle + 40] = b"\xff" * 40
    path.write_bytes(content)
    table = write_table(tmp_path / "mine", *(f"train,p,c,t,a.avi,{number},0,0,64,48" for number in range(count)))
    assert f"{path} cannot be decoded as a video from frame " in refusal(table, cache)
    raw, faults = parse_all(table, cache)
    kept = [read_number(pixels_of(frame)) for frame in raw.train[0].frames]
    assert kept == list(range(len(kept)))
    assert 10 < len(kept) <= damaged  # FFmpeg's threads may hold frames back that come before the damage
    assert f"from frame {len(kept)} (the first is 0) on" in faults[0].message
    assert (len(faults), len(faults[0].frames)) == (1, count - len(kept))


def test_a_video_of_unreasonable_size_is_refused_by_its_header_and_by_the_decoder(tmp_path, cache, monkeypatch):
    path = tmp_path / "mine" / "a.avi"
    write_video(path, "mjpeg", "yuvj420p")
    table = write_table(tmp_path / "mine", "train,p,c,t,a.avi,0,0,0,4,4")
    with monkeypatch.context() as patch:
        patch.setattr(modes, "MOST_PIXELS", 64 * 48 - 1)
        assert "decoded as a video from frame 0 (the first is 0) on (it is 64x48" in refusal(table, cache)
    with monkeypatch.context() as patch:
        patch.setattr(video_module, "MOST_PIXELS", 64 * 48 - 1)  # as if the size changed behind the header
        assert "a.avi cannot be decoded as a video from frame 0" in refusal(table, cache)
    assert len(parse_all(table, cache)[0].train) == 1


def test_a_video_that_is_gone_or_another_one_is_noticed_although_there_are_crops(folder, cache):
    path = write_table(folder, GOOD)
    first = parse_video(path, cache_dir=cache)
    video = folder / "cam1" / "a.mkv"
    shutil.move(video, folder / "kept.mkv")
    assert f"{video} does not exist" in refusal(path, cache)
    write_video(video, "ffv1", "bgr0", frames=6)
    assert parse_video(path, cache_dir=cache).root != first.root
    shutil.copy2(folder / "kept.mkv", video)
    assert parse_video(path, cache_dir=cache) == first


def test_an_interrupt_while_decoding_leaves_nothing(folder, cache, monkeypatch):
    path = write_table(folder, *(f"train,p,c,t,cam1/a.mkv,{number},0,0,4,4" for number in range(FRAMES)))
    real = video_module._frames

    def interrupted(source):
        for number, frame in enumerate(real(source)):
            if number == 10:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(video_module, "_frames", interrupted)
    before = files(folder.parent)
    with pytest.raises(KeyboardInterrupt):
        parse_video(path, cache_dir=cache)
    assert files(folder.parent) == before
