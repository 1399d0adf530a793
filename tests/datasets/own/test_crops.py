"""Crops of listed pictures: the right pixels, cut once, and cut again when the cache is damaged."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.exclusion import Exclusions, unless_excluded
from datasets.own import crops
from datasets.own.manifest import parse_manifest
from tests.datasets.own.manifest_files import (
    BOXED,
    GOOD,
    HEIGHT,
    WIDTH,
    brief,
    files,
    parse_all,
    pixels,
    refusal,
    write_table,
)
from utils.errors import InputError


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
    raw = parse_manifest(path, cache_dir=cache, outside="allow")
    frames = raw.train[0].frames
    assert len(set(frames)) == 4
    for frame, seed in zip(frames, (1, 2, 2, 1)):
        assert Path(frame).resolve().is_relative_to(Path(raw.root).resolve())
        assert np.array_equal(np.array(Image.open(frame)), pixels(seed)[:9, :9])


def test_a_picture_of_several_boxes_is_opened_once_and_not_again_for_cached_crops(folder, cache, monkeypatch):
    opened, real = [], Image.open
    monkeypatch.setattr(crops.Image, "open", lambda path: opened.append(path) or real(path))
    rows = [f"train,p{x},c,t,pics/{seed}.png,{x},0,4,4" for x in range(5) for seed in (1, 2)]
    path = write_table(folder, *rows, header=BOXED)
    first = parse_manifest(path, cache_dir=cache)
    assert sum(len(t.frames) for t in first.train) == 10
    assert parse_manifest(path, cache_dir=cache) == parse_manifest(folder, cache_dir=cache) == first
    assert sorted(opened) == [str(folder / "pics" / "1.png"), str(folder / "pics" / "2.png")]


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
    twin = shutil.copytree(folder, folder.parent / "twin")
    Image.fromarray(pixels(7)).save(twin / "pics" / "1.png")
    other = parse_manifest(write_table(twin, GOOD, header=BOXED), cache_dir=cache)
    assert np.array_equal(np.array(Image.open(other.train[0].frames[0])), pixels(7)[:4, :4])
    roots.append(other.root)
    monkeypatch.setattr(crops, "_VERSION", crops._VERSION + 1)
    roots.append(parse_manifest(path, cache_dir=cache).root)
    assert len(set(roots)) == 5
    assert {Path(root).name.rpartition("-")[0] for root in roots} == {"list"}
    (folder / "pics" / "1.png").unlink()
    assert "pics/1.png does not exist" in refusal(path, cache)


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
                parse_manifest(path, on_fault=unless_excluded(Exclusions(known)), cache_dir=cache)
        raw = parse_manifest(path, on_fault=unless_excluded(Exclusions(names)), cache_dir=cache)
        assert brief(raw, "train") == [("p", "c", 1)] and not raw.query


def change_record(root: Path, **changes) -> None:
    record = json.loads((root / "record.json").read_text())
    (root / "record.json").write_text(json.dumps(record | changes))


CROP = "pics/1.png/0_0_0_4_4.png"
DAMAGES = {
    "no crop": lambda root: (root / CROP).unlink(),
    "short crop": lambda root: os.truncate(root / CROP, 20),
    "no record": lambda root: (root / "record.json").unlink(),
    "empty record": lambda root: change_record(root, files={}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_cut_again(folder, cache, caplog, damage):
    path = write_table(folder, GOOD, "query,p,c,t,pics/9.png,0,0,4,4", header=BOXED)
    first, faults = parse_all(path, cache)
    DAMAGES[damage](Path(first.root))
    assert parse_all(path, cache) == (first, faults) and len(faults) == 1
    assert np.array_equal(np.array(Image.open(first.train[0].frames[0])), pixels(1)[:4, :4])
    warning = f"the cache folder {first.root} is damaged; its crops are cut again"
    assert caplog.messages == [warning]
    assert os.listdir(cache) == [Path(first.root).name]
    assert parse_all(path, cache) == (first, faults)
    assert caplog.messages == [warning]


WRONG_RECORDS = [
    "", "[]", "3", "null", "{", "[" * 100_000, '{"faults": []}', '{"files": [], "faults": []}', b"\xff",
    {"faults": 3}, {"faults": [1]}, {"faults": ["ab"]}, {"faults": [[["x.png"], "y"]]}, {"faults": [[[], "y"]]},
    {"faults": [[[{}], "y"]]}, {"faults": [["x.png", "y"]]}, {"faults": [[[CROP], 1]]}, {"faults": [[[CROP], "y"]]},
    {"faults": None}, {"beyond": 3}, {"beyond": ["x"]}, {"files": 3}, {"files": {CROP: "x"}},
    {"files": {"record.json": 1}}, {"files": {"\0": 1}},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_RECORDS, ids=lambda wrong: str(wrong)[:60])
def test_a_record_of_a_wrong_shape_has_the_crops_cut_again(folder, cache, caplog, wrong):
    path = write_table(folder, GOOD, header=BOXED)
    first = parse_manifest(path, cache_dir=cache)
    record = Path(first.root, "record.json")
    right = record.read_text()
    if isinstance(wrong, dict):
        change_record(record.parent, **wrong)
    else:
        record.write_bytes(wrong if isinstance(wrong, bytes) else wrong.encode())
    assert parse_all(path, cache) == (first, [])
    assert record.read_text() == right
    assert [message.partition(" is ")[2] for message in caplog.messages] == ["damaged; its crops are cut again"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_after_an_interrupt_or_where_the_cache_cannot_be_written_nothing_is_left(folder, cache, monkeypatch, error):
    path = write_table(folder, GOOD, "train,p,c,t,pics/2.png,0,0,4,4", header=BOXED)
    assert f"cache folder {path}" in refusal(path, str(path))  # a file where the folder should be
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


def test_a_process_that_is_slower_takes_the_folder_of_the_faster_one(folder, cache, monkeypatch):
    path = write_table(folder, GOOD, header=BOXED)
    results = []

    def while_another_finishes(*arguments):
        monkeypatch.setattr("datasets.own.manifest.cut_pictures", crops.cut_pictures)
        results.append(parse_manifest(path, cache_dir=cache))
        return crops.cut_pictures(*arguments)

    monkeypatch.setattr("datasets.own.manifest.cut_pictures", while_another_finishes)
    results.append(parse_manifest(path, cache_dir=cache))
    assert results[0] == results[1]
    assert os.listdir(cache) == [Path(results[0].root).name]
    size = os.path.getsize(results[0].train[0].frames[0])
    record = {"files": {"pics/1.png/0_0_0_4_4.png": size}, "faults": [], "beyond": []}
    assert json.loads(Path(results[0].root, "record.json").read_text()) == record


def test_16_bit_grey_is_scaled_and_not_clipped(folder, cache):
    grey = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 50
    Image.fromarray(grey).save(folder / "pics" / "1.png")
    raw = parse_manifest(write_table(folder, GOOD.replace("0,0,4,4", "0,20,40,10"), header=BOXED), cache_dir=cache)
    crop = np.array(Image.open(raw.train[0].frames[0]))
    assert np.array_equal(crop, np.repeat(np.round(grey[20:] / 257)[..., None], 3, axis=2))


def test_a_box_that_reaches_beyond_the_picture_ends_at_its_edge(folder, cache, caplog):
    path = write_table(folder, GOOD, "train,p,c,t,pics/1.png,37,28,9,4", header=BOXED)
    raw, faults = parse_all(path, cache)
    assert faults == []
    assert caplog.messages == ["1 boxes reach beyond their picture and end at its edge (rows 3)"]
    caplog.clear()
    # The crops that are used again are warned of as well.
    assert parse_all(path, cache) == (raw, faults)
    crop = np.array(Image.open(raw.train[0].frames[1]))
    assert np.array_equal(crop, pixels(1)[28:30, 37:40])
    assert caplog.messages == ["1 boxes reach beyond their picture and end at its edge (rows 3)"]
