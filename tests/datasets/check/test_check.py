"""datasets.check: each planted fault is found by name, a clean set passes, one list of exclusions is enough."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from configs import load_cfg
from datasets import load_splits
from datasets.check import command as check
from datasets.check.base import Disk, Problem, split_frames
from datasets.check.fix_list import leave_out, write_list
from datasets.check.folders import scan_folders
from datasets.check.problems import LEAK, Rules, find_problems, folder_problems, row_notes, row_problems
from datasets.check.report import exclusion_notes, odd_shapes, short_identities, table
from datasets.exclusion import Exclusions
from datasets.frames.probe import OpenedFrame
from datasets.items import TrainItems
from datasets.sets.lsvid import LSVID
from datasets.sets.mars import MARS
from datasets.tracklet import Fault, RawSplits, Tracklet
from tests.datasets.synthetic.test_synthetic_layouts import contents
from utils.errors import InputError

FRAME = "bbox_train/0001/0001C1T0001F001.jpg"
MARS_TEST = Rules(includes_query=True, camera_filter=True, distractor=0)


@pytest.fixture
def data(tiny_mars, tmp_path) -> Path:
    """A copy of the tiny set that a test may break."""
    return shutil.copytree(tiny_mars, tmp_path / "mars")


@pytest.fixture
def fix(tmp_path) -> Path:
    """Where a check writes the frames to leave out."""
    return tmp_path / "fix.csv"


@pytest.fixture
def run(data, capsys):
    """Check the copy: exit code, report, messages on stderr."""

    def call(*flags: str, workers: int = 0) -> tuple[int, str, str]:
        rc = check.main([*flags, "DATASETS.ROOT_DIR", str(data), "DATALOADER.NUM_WORKERS", str(workers)])
        return rc, *capsys.readouterr()

    return call


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def raw_splits(train=(), query=(), gallery=(), **others) -> RawSplits:
    """Splits of (person, camera, names of frames)."""

    def tracklets(items):
        return [Tracklet(tuple(f"/data/{name}" for name in names.split()), pid, cam) for pid, cam, names in items]

    others = {"cameras": ("1", "2"), "gallery_includes_query": True} | others
    return RawSplits("/data", tracklets(train), tracklets(query), tracklets(gallery), **others)


def on_disk(raw: RawSplits, **special: OpenedFrame) -> Disk:
    """Every frame is a picture of its own, 20 x 40 pixels, but for the `special` ones."""
    paths = [path for part in (raw.train, raw.query, raw.gallery) for t in part for path in t.frames]
    opened = {path: OpenedFrame(digest=path.encode(), width=20, height=40) for path in paths}
    return Disk(opened | {f"/data/{name}": frame for name, frame in special.items()}, frozenset())


def find(raw: RawSplits, disk: Disk, rules: Rules) -> list[Problem]:
    """The problems of a set of one split."""
    return find_problems({"0": raw}, False, disk, rules)


SOUND = {"train": [(1, 0, "a b")], "query": [(2, 0, "q")], "gallery": [(2, 1, "g"), (0, 1, "d")]}


def test_a_clean_set_passes_and_nothing_is_written_into_it(run, data):
    before = contents(data)
    rc, report, errors = run()
    lines = report.splitlines()
    # 6 persons x 3 cameras x 2 tracklets to train with; 4 persons to test, one query for each of 3 cameras
    counts = [line.split() for line in lines[2:5]]
    assert [line[:3] for line in counts] == [["train", "6", "36"], ["query", "4", "12"], ["gallery", "5", "21"]]
    assert counts[0][-2:] == ["625", "8,298"] and lines[1].split()[-3:] == ["official", "ids", "tracklets"]
    frames = sum(int(line[3]) for line in counts)
    # Each of the 6 persons has 6 items, so one group of 4; a batch takes those of 4 persons, and 2 are left.
    assert lines[5] == "36 training items (tracklets), 1 batch of 16 in the first epoch"
    assert lines[6].startswith(f"{frames} frames opened in ") and lines[6].endswith("in this process")
    assert lines[7].startswith("note: ids or tracklets of train, query, gallery are not the official ones")
    assert (rc, lines[8:], contents(data)) == (0, ["no problem found"], before)
    assert "Traceback" not in errors


def test_broken_frames_are_named_and_can_be_left_out(run, data, fix):
    gone, cut, empty, text = (f"bbox_train/000{person}/000{person}C1T0001F001.jpg" for person in (1, 2, 3, 4))
    (data / gone).unlink()
    (data / cut).write_bytes((data / cut).read_bytes()[:-60])
    (data / empty).write_bytes(b"")
    (data / text).write_bytes(b"no image")
    rc, report, _ = run("--fix-list", str(fix))
    assert rc == 1 and report.endswith("\n4 problems found (see above)\n")
    assert f"\nmissing frames: 1\n  train {gone} does not exist\n" in report
    lines = report.split("\nframes that cannot be decoded: 3\n")[1].splitlines()
    assert lines[0].startswith(f"  train {cut} cannot be decoded (image file is truncated")
    assert lines[1:3] == [f"  train {empty} holds no byte", f"  train {text} is no image"]
    listed = rows(fix)
    assert listed[0][:2] == ["split", "frame"]
    assert sorted(row[:2] for row in listed[1:]) == [["train", name] for name in (gone, cut, empty, text)]
    splits = load_splits("MARS", str(data), exclude=str(fix))
    read = {path for t in splits.train for path in t.frames}
    assert not read & {str(data / name) for name in (gone, cut, empty, text)}
    rc, report, _ = run("DATASETS.EXCLUDE", str(fix))
    assert rc == 0 and "note: DATASETS.EXCLUDE leaves out 4 of " in report


def test_an_empty_or_missing_folder_is_reported_once(run, data, fix):
    (data / "bbox_train" / "0099").mkdir()
    for path in (data / "bbox_train" / "0003").iterdir():
        path.unlink()
    shutil.rmtree(data / "bbox_test" / "0008")
    rc, report, _ = run("--fix-list", str(fix))
    assert rc == 1 and "folders without any file: 3\n" in report and "missing frames" not in report
    assert "  bbox_train/0099 holds no file\n" in report
    assert "  bbox_train/0003 holds no file; the lists name " in report
    assert "  bbox_test/0008 does not exist; the lists name " in report
    assert "1 problem cannot be left out and must be mended:" in report
    # What was emptied is left out; the folder that no list names remains until someone deletes it.
    rc, report, _ = run("DATASETS.EXCLUDE", str(fix))
    assert rc == 1 and "folders without any file: 1\n  bbox_train/0099 holds no file\n" in report
    (data / "bbox_train" / "0099").rmdir()
    assert run("DATASETS.EXCLUDE", str(fix))[0] == 0


def test_a_frame_of_no_tracklet_cannot_be_left_out(run, data, fix):
    with (data / "info" / "train_name.txt").open("a") as file:
        file.write("0001C1T0099F001.jpg\n")
    rc, report, _ = run("--fix-list", str(fix))
    assert rc == 1 and "\nfaults of the lists: 1\n" in report and "frames together, " in report
    assert "1 problem cannot be left out and must be mended:" in report
    assert run("DATASETS.EXCLUDE", str(fix))[0] == 1


def test_images_that_no_list_names_are_counted_but_for_junk(run, data):
    for name in ("bbox_train/0001/0001C1T0009F001.jpg", "bbox_train/0002/x.PNG", "bbox_test/00-1/00-1C1T0099F001.jpg"):
        shutil.copy(data / FRAME, data / name)
    (data / "bbox_train" / "0001" / "notes.txt").write_text("no image")
    rc, report, _ = run()
    assert rc == 1 and "image folders with files that no list names: 1\n" in report
    assert "  bbox_train holds 2 image files that no list names: 0001C1T0009F001.jpg, x.PNG\n" in report


def test_a_folder_behind_a_link_is_looked_into_and_a_loop_ends(data, tmp_path):
    shutil.move(data / "bbox_train" / "0001", tmp_path / "elsewhere")
    (data / "bbox_train" / "0001").symlink_to(tmp_path / "elsewhere")
    (data / "bbox_train" / "0002" / "loop").symlink_to(data / "bbox_train")
    (data / "bbox_test" / "0099").symlink_to(tmp_path / "elsewhere")
    folders = scan_folders(str(data), {str(data / FRAME), str(data / "bbox_test" / "0099" / Path(FRAME).name)})
    assert folders.empty_named == folders.empty_other == set()
    assert str(data / FRAME) not in folders.unlisted[str(data / "bbox_train")]


def test_the_same_picture_in_two_splits_is_found(run, data, fix):
    query, gallery = "bbox_test/0007/0007C1T0001F001.jpg", "bbox_test/0008/0008C2T0002F002.jpg"
    shutil.copy(data / query, data / FRAME)
    shutil.copy(data / query, data / gallery)
    rc, report, _ = run("--fix-list", str(fix))
    assert rc == 1 and "the same picture in two splits: 2\n" in report
    assert f"  train {FRAME} is query {query}\n" in report and f"  gallery {gallery} is query {query}\n" in report
    assert [row[:2] for row in rows(fix)[1:]] == [["train", FRAME], ["gallery", gallery]]
    assert run("DATASETS.EXCLUDE", str(fix))[0] == 0


def test_ten_problems_of_a_kind_are_named_unless_all_are_asked_for(run, data):
    lost = sorted((data / "bbox_train" / "0002").iterdir())[:12]
    for path in lost:
        path.unlink()
    short, full = (run(*flags)[1].splitlines() for flags in ((), ("--all",)))
    start = short.index("missing frames: 12") + 1
    assert [line.split()[1] for line in short[start : start + 10]] == [f"bbox_train/0002/{p.name}" for p in lost[:10]]
    assert short[start + 10 :] == ["  and 2 more (--all names them)", "12 problems found (see above)"]
    assert [line.split()[1] for line in full[start:-1]] == [f"bbox_train/0002/{path.name}" for path in lost]


TWO_QUERIES = SOUND | {"query": [(2, 0, "q"), (2, 1, "r")], "gallery": [(3, 1, "g")]}
UNMATCHED_Q, UNMATCHED_R = "person 2, camera 1, 1 frame from q", "person 2, camera 2, 1 frame from r"


@pytest.mark.parametrize(
    ("splits", "rules", "found"),
    [
        (SOUND, MARS_TEST, []),
        (SOUND | {"train": [(0, 0, "a"), (1, 0, "b b")]}, MARS_TEST, []),
        (SOUND | {"train": [(0, 0, "a")]}, Rules(True, True, None),
         ["person 0 is in train (1 tracklet) and in gallery"]),
        (SOUND | {"train": [(2, 0, "a"), (2, 1, "b")]}, MARS_TEST,
         ["person 2 is in train (2 tracklets) and in query and gallery"]),
        (SOUND | {"gallery": [(2, 0, "g")]}, MARS_TEST, [UNMATCHED_Q]),
        (SOUND | {"gallery": [(2, 0, "g")]}, Rules(True, False, 0), []),
        (SOUND | {"gallery": [(3, 1, "g")]}, Rules(True, False, 0), [UNMATCHED_Q]),
        (SOUND | {"gallery": [(3, 1, "g")]}, Rules(False, False, 0), [UNMATCHED_Q]),
        (TWO_QUERIES, MARS_TEST, []),
        (TWO_QUERIES, Rules(False, True, 0), [UNMATCHED_Q, UNMATCHED_R]),
        (SOUND | {"gallery": []}, MARS_TEST, [UNMATCHED_Q]),
        (SOUND | {"gallery": [], "gallery_includes_query": False}, MARS_TEST, ["gallery has no tracklet", UNMATCHED_Q]),
        (SOUND | {"gallery": [(2, 1, "q")]}, MARS_TEST, ["gallery q is query q"]),
    ],
)  # fmt: skip
def test_hand_made_splits(splits, rules, found):
    raw = raw_splits(**splits)
    assert [problem.text for problem in find(raw, on_disk(raw), rules)] == found


def test_leaving_out_one_frame_may_call_for_another_and_one_list_is_enough():
    # h is a picture of the query p; without it the query q of person 2 has no match left.
    raw = raw_splits([(1, 0, "a")], [(2, 0, "q"), (3, 0, "p")], [(2, 1, "h"), (3, 1, "g")])
    disk = on_disk(raw, h=OpenedFrame(digest=b"/data/p", width=20, height=40))

    def look(exclusions):
        return find(exclusions.apply(raw), disk, MARS_TEST)

    listed, unsolved = leave_out({("", "old"): "too dark"}, look(Exclusions()), look)
    assert [row[:2] for row in listed] == [("", "old"), ("gallery", "h"), ("query", "q")] and unsolved == []
    assert listed[0][2] == "too dark"
    assert look(Exclusions(row[:2] for row in listed)) == []
    # The only person to train with is in the test: without it a split is empty, which no list solves.
    raw = raw_splits([(2, 0, "a")], [(2, 0, "q")], [(2, 1, "g")])
    disk = on_disk(raw)
    assert [problem.text for problem in leave_out({}, look(Exclusions()), look)[1]] == ["train has no tracklet"]


@pytest.mark.parametrize(("size", "odd"), [((20, 120), 0), ((20, 121), 1), ((40, 40), 0), ((41, 40), 1), ((16, 16), 0),
                                           ((8, 30), 0), ((10, 15), 1)])  # fmt: skip
def test_frames_far_from_a_persons_shape_are_noted_up_to_one_per_cent(size, odd):
    frame = OpenedFrame(digest=b"odd", width=size[0], height=size[1])
    for others, tolerated in ((99, True), (98, False)):
        names = " ".join(f"f{number}" for number in range(others))
        raw = raw_splits(**SOUND | {"train": [(1, 0, f"x {names}")]})
        disk = on_disk(raw, x=frame)
        problems = [(p.text, p.leave_out) for p in find(raw, disk, MARS_TEST)]
        notes = odd_shapes(raw.root, split_frames(raw), disk.frames)
        problem = (f"train x is {size[0]} wide, {size[1]} high", (("train", "x"),))
        assert problems == [problem] * (odd and not tolerated)
        assert len(notes) == (odd and tolerated) and all(f"1 of {others + 1} train frames" in line for line in notes)


def test_notes_on_short_identities_and_on_exclusions():
    raw = raw_splits([(1, 0, "a"), (1, 1, "b"), (7, 0, "c d e f")], persons={7: "Ann"})
    assert short_identities(raw, raw.train, 2)[0].endswith("drawn with replacement: Ann")
    assert short_identities(raw, TrainItems.parse("chunks 2").cut(raw.train[2:]), 2) == []
    fault = Fault("wrong row", ("/data/w",), "/data")
    exclusions = Exclusions([("train", "a"), ("", "c"), ("query", "w"), ("query", "a"), ("", "gone")])
    notes = exclusion_notes([raw], [fault], exclusions, several=False)
    assert notes == ["DATASETS.EXCLUDE leaves out 3 of 7 frames", "2 rows of DATASETS.EXCLUDE without a frame: gone, a"]
    notes = exclusion_notes([raw], [fault], exclusions, several=True)
    assert notes[1:] == ["1 row of DATASETS.EXCLUDE without a frame: gone"]


def test_what_a_parser_says_is_a_problem_unless_it_concerns_the_validation_part_alone():
    faults = [
        Fault("row 3 mixes people", ("/data/a", "/data/b"), "/data", "train"),
        Fault("counts do not add up", blocks=False),
        Fault("no validation images", split="val", blocks=False),
    ]
    found = [(problem.text, problem.leave_out) for problem in row_problems(faults, several=False)]
    assert found == [("row 3 mixes people", (("train", "a"), ("train", "b"))), ("counts do not add up", ())]
    assert row_problems(faults, several=True)[0].leave_out == (("", "a"), ("", "b"))
    assert row_notes(faults) == ["no validation images"]


def test_an_empty_folder_that_a_parser_names_is_not_named_twice(tmp_path):
    for name in ("cam1/person1", "cam1/person12", "cam1/person2"):
        (tmp_path / name).mkdir(parents=True)
    frame = tmp_path / "cam1" / "person2" / "x.png"
    frame.touch()
    folders = scan_folders(str(tmp_path), {str(frame)})
    named = Fault(f"{tmp_path / 'cam1' / 'person12'} holds no image")
    problems = folder_problems(str(tmp_path), folders, [named], None)
    assert [problem.text for problem in problems] == ["cam1/person1 holds no file"]


def test_persons_held_out_are_missing_in_training():
    train = [(pid, cam, f"{pid}{cam}") for pid in range(4) for cam in (0, 1)]
    raw = raw_splits(train, [(9, 0, "q")], [(9, 1, "g")])
    for batch_identities, fraction, found in ((4, 0.0, 0), (2, 0.5, 0), (3, 0.5, 1)):
        problems = find(raw, on_disk(raw), replace(MARS_TEST, batch_identities=batch_identities, val_fraction=fraction))
        assert [problem.kind for problem in problems] == ["too few persons to train with"] * found
        assert all(p.text.startswith("train has 2 persons, without those held out") for p in problems)


def test_a_set_without_cameras_has_a_dash_in_their_place():
    for cameras, cell in (((), "-"), (("1",), "1")):
        assert table(raw_splits(**SOUND, cameras=cameras), {})[1].split()[-1] == cell


def test_a_set_that_may_number_persons_twice_is_not_accused_of_sharing_most_of_them():
    raw = raw_splits(train=[(1, 0, "a"), (2, 0, "b"), (3, 0, "c")], query=[(1, 0, "q"), (2, 0, "r")],
                     gallery=[(1, 1, "g"), (2, 1, "h")])  # fmt: skip
    cfg = load_cfg()
    for facts, shared in ((MARS, True), (LSVID, False)):
        rules = check._rules(cfg, raw, facts)
        leaks = [p.text for p in find(raw, on_disk(raw), rules) if p.kind == LEAK]
        assert bool(rules.own_numbers) is not shared and len(leaks) == (2 if shared else 0)
    one_shared = raw_splits([(1, 0, "a"), (4, 0, "b"), (3, 0, "c")], [(1, 0, "q")], [(1, 1, "g")])
    assert check._rules(cfg, one_shared, LSVID).own_numbers == ()


def test_a_name_that_a_list_cannot_hold_is_said_alone(tmp_path):
    rows = [("train", "a.jpg", "dark"), ("train", "b/\udcff.jpg", "dark"), ("train", "c.jpg", "dark")]
    with pytest.raises(InputError, match=r"cannot hold 'train,b/\\udcff.jpg,dark': rename that file"):
        write_list(tmp_path / "fix.csv", rows)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_other_programs_show_otherwise_are_counted_in_a_note(run, data):
    frames = sorted((data / "bbox_train").rglob("*.jpg"))[:3]
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 8
    for path in frames[:2]:
        Image.open(path).save(path, exif=tags)
    Image.open(frames[2]).convert("CMYK").save(frames[2])
    rc, report, _ = run()
    first, third = (path.relative_to(data).as_posix() for path in (frames[0], frames[2]))
    (line,) = [line for line in report.splitlines() if "EXIF" in line]
    assert line.startswith("note: 2 of ") and line.endswith(f"training sees the stored pixels: {first}, ...")
    assert f" are CMYK and are converted to RGB without their colour profile: {third}\n" in report and rc == 0
