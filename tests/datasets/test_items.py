"""Training items: tracklets, chunks and windows, and how many batches they make."""

import pytest

from configs import changed_keys, load_cfg
from configs.errors import ConfigError
from datasets import build_train_loader, configured_splits, load_splits
from datasets.build import build_sampler, finish_splits, items_of
from datasets.items import TrainItems
from datasets.registry import DATA_SETS, find_dataset
from datasets.tracklet import RawSplits, Tracklet
from processor.run import train_main
from processor.series import is_finished
from processor.training import check_recipe
from tests.conftest import metrics, one_error, tiny_cfg, tiny_options
from tests.refusals import refused


def whole(num_frames: int) -> Tracklet:
    return Tracklet(tuple(f"{number:03d}.jpg" for number in range(num_frames)), 7, 2)


def bounds(text: str, num_frames: int) -> list[tuple[int, int]]:
    """(first frame, last frame) of each item; every item has to be consecutive frames of the same person."""
    items = TrainItems.parse(text).cut([whole(num_frames)])
    assert {(t.pid, t.camid) for t in items} == {(7, 2)}
    pairs = [(int(t.frames[0][:3]), int(t.frames[-1][:3])) for t in items]
    assert [t.frames for t in items] == [whole(num_frames).frames[first : last + 1] for first, last in pairs]
    return pairs


@pytest.mark.parametrize(
    ("frames", "length", "lengths"),
    [(60, 48, [60]), (95, 48, [95]), (96, 48, [48, 48]), (143, 48, [48, 95]), (144, 48, [48, 48, 48]), (47, 48, [47]),
     (143, 64, [64, 79]), (3, 1, [1, 1, 1])],
)  # fmt: skip
def test_chunks_follow_each_other_and_the_last_takes_the_rest(frames, length, lengths):
    found = bounds(f"chunks {length}", frames)
    assert [last - first + 1 for first, last in found] == lengths
    assert found[0][0] == 0 and found[-1][1] == frames - 1
    assert all(after[0] == before[1] + 1 for before, after in zip(found, found[1:]))


@pytest.mark.parametrize(
    ("frames", "expected"),
    [(5, [(0, 4)]), (8, [(0, 7)]), (9, [(0, 7)]), (12, [(0, 7)]), (13, [(0, 7), (4, 11)]),
     (22, [(0, 7), (4, 11), (8, 15), (12, 19)])],
)  # fmt: skip
def test_windows_of_8_frames_every_4_leave_out_the_one_that_ends_with_the_last_frame(frames, expected):
    assert bounds("windows 8 4", frames) == expected
    assert bounds(" windows  8 4 ", frames) == expected


def test_whole_tracklets_stay_as_they_are():
    assert TrainItems.parse("tracklets").cut([whole(500)]) == [whole(500)]


@pytest.mark.parametrize("text", ["", "window 8 4", "windows 8", "windows 8 0", "chunks", "chunks -1", "chunks 4.5",
                                  "tracklets 4", "chunks 48 2"])  # fmt: skip
def test_other_texts_are_refused_by_the_config_and_by_load_splits(text, tmp_path):
    with pytest.raises(ConfigError, match="DATASETS.TRAIN_ITEMS must be auto, tracklets"):
        load_cfg(None, ["DATASETS.TRAIN_ITEMS", f"'{text}'"])
    refused("DATASETS.TRAIN_ITEMS .* must be auto, tracklets", load_splits, "MARS", str(tmp_path), train_items=text)


@pytest.mark.parametrize("text", ["auto", " auto ", "tracklets", "chunks 48", "windows 8 4", " windows  16 08 "])
def test_config_and_items_accept_the_same_texts(text):
    assert load_cfg(None, ["DATASETS.TRAIN_ITEMS", f"'{text}'"]).DATASETS.TRAIN_ITEMS == text
    assert items_of(find_dataset("MARS"), text).kind == (text.split()[0] if text.strip() != "auto" else "tracklets")


def test_items_shorter_than_a_clip_are_said(tiny_mars, caplog):
    for items, warned in (("chunks 4", False), ("windows 3 1", True), ("tracklets", False)):
        caplog.clear()
        cfg = tiny_cfg(DATASETS__ROOT_DIR=tiny_mars, DATASETS__TRAIN_ITEMS=f"'{items}'", INPUT__SEQ_LEN=4)
        build_train_loader(cfg, configured_splits(cfg))
        assert ("training items of 3 frames (DATASETS.TRAIN_ITEMS) are shorter than a clip" in caplog.text) == warned


def test_each_set_has_the_items_of_its_authors_unless_told_otherwise():
    items = {dataset.name: dataset.train_items for dataset in DATA_SETS if dataset.train_items != "tracklets"}
    assert items == {"LS-VID": "chunks 48", "iLIDS-VID": "windows 8 4"}
    assert load_cfg("configs/vit_base_ilids.yml").DATASETS.TRAIN_ITEMS == items["iLIDS-VID"]
    assert load_cfg("configs/vit_base_lsvid.yml").DATASETS.TRAIN_ITEMS == items["LS-VID"]


def test_windows_of_a_split_of_ilids_vid_and_their_batches(tmp_path):
    """150 persons x 2 cameras: 70 frames give range(0, 62, 4), 16 windows, where whole tracklets give one item."""
    train = [Tracklet(tuple(f"{pid}_{camid}_{frame}" for frame in range(70)), pid, camid)
             for pid in range(1, 151) for camid in (0, 1)]  # fmt: skip
    raw = RawSplits(str(tmp_path), train, train[:1], train[1:2], ("1", "2"), gallery_includes_query=False)
    counts = {}
    for text in ("windows 8 4", "tracklets"):
        cfg = load_cfg("configs/vit_base_ilids.yml", ["DATASETS.TRAIN_ITEMS", text])
        splits = finish_splits("iLIDS-VID", raw, TrainItems.parse(text), 0.0, 0)
        counts[text] = len(splits.train), len(build_sampler(cfg, splits))
    # Whole: each person gives one group of 4 draws, 150 groups are 37 batches of 4 persons. Windows: each person has
    # 32 items, so 8 groups; 1,200 groups are 300 batches, less those that the last persons are left with alone.
    assert counts["tracklets"] == (300, 37)
    assert counts["windows 8 4"][0] == 4800 and 290 <= counts["windows 8 4"][1] <= 300


@pytest.mark.parametrize("items", ["chunks 2", "windows 2 1"])
def test_a_part_that_is_held_out_keeps_whole_tracklets(items, tiny_mars):
    whole, cut = (load_splits("MARS", str(tiny_mars), train_items=text, val_fraction=0.4, seed=1)
                  for text in ("tracklets", items))  # fmt: skip
    assert (cut.val_query, cut.val_gallery) == (whole.val_query, whole.val_gallery) != ((), ())
    assert [t.frames for t in cut.train] == [t.frames for t in TrainItems.parse(items).cut(whole.train)]
    assert len(cut.train) > len(whole.train) and cut.query == whole.query and cut.gallery == whole.gallery


@pytest.mark.parametrize(
    ("name", "step", "items"),
    [("MARS", 48, "tracklets"), ("iLIDS-VID", 48, "tracklets"), ("LS-VID", 48, "chunks 48"),
     ("lsvid", 24, "chunks 24"), ("LSVID", 0, "tracklets")],
)  # fmt: skip
def test_the_config_of_an_earlier_run_says_which_items_it_had(name, step, items, tmp_path):
    file = tmp_path / "config.yml"
    file.write_text(f"DATASETS:\n  NAMES: {name}\n  SAMPLING_STEP: {step}\n")
    assert load_cfg(file).DATASETS.TRAIN_ITEMS == items
    assert changed_keys(file.read_text(), load_cfg(file)) == {}
    changes = changed_keys(file.read_text(), load_cfg(None, ["DATASETS.NAMES", name]))  # with items 'auto'
    if items_of(find_dataset(name), "auto") == TrainItems.parse(items):
        check_recipe(changes, file, name)
    else:
        refused("TRAIN_ITEMS .*, now it is 'auto'; a continued run keeps its recipe", check_recipe, changes, file, name)


def test_the_earlier_key_is_refused_where_it_is_not_known_what_it_meant(tmp_path):
    file = tmp_path / "config.yml"
    file.write_text("DATASETS:\n  SAMPLING_STEP: 48\n")
    for path, opts in ((file, []), (None, ["DATASETS.SAMPLING_STEP", "48"])):
        with pytest.raises(ConfigError, match="SAMPLING_STEP: it is gone: DATASETS.TRAIN_ITEMS cuts"):
            load_cfg(path, opts)


def test_a_finished_run_on_other_items_is_not_taken_for_this_one(trained_run, tiny_mars, caplog):
    keys = {"DATASETS__ROOT_DIR": tiny_mars, "OUTPUT_DIR": trained_run}
    files = {"TEST__SAVE_FEATURES": True, "TEST__SAVE_RANKS": True, "TEST__CONTACT_SHEET": 3, "TEST__UNTRAINED": True}
    for items, finished in (("auto", True), ("tracklets", True), ("'chunks 2'", False)):
        assert is_finished(tiny_cfg(DATASETS__TRAIN_ITEMS=items, **keys, **files)) == finished
    assert not is_finished(tiny_cfg(DATASETS__EXCLUDE="list.csv", **keys, **files))  # perhaps of other frames
    assert metrics(trained_run)["train_items"] == "tracklets"
    line = one_error(caplog, train_main, tiny_options("--resume", DATASETS__TRAIN_ITEMS="'chunks 2'", **keys, **files))
    assert "was trained with DATASETS.TRAIN_ITEMS 'auto', now it is 'chunks 2'" in line


@pytest.mark.parametrize("words", ["windows 8 4", "chunks 48"])
def test_a_value_that_lost_its_quotes_is_said(words):
    with pytest.raises(ConfigError, match="a value of several words needs quotes"):
        load_cfg(None, ["DATASETS.TRAIN_ITEMS", *words.split()])
