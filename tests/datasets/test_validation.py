"""Validation identities held out of training, training chunks, and lists of frames to leave out."""

import pytest

from datasets.exclusion import Exclusions, read_exclusions, unless_excluded, write_exclusions
from datasets.tracklet import Fault, RawSplits, Tracklet, raise_or_warn
from datasets.validation import hold_out
from utils.errors import InputError


def tracklet(pid, camid, number=0, frames=3):
    return Tracklet(tuple(f"/set/{pid}/{camid}_{number}/{frame}.jpg" for frame in range(frames)), pid, camid)


PEOPLE = [tracklet(pid, camid, number) for pid in range(20) for camid in range(3) for number in range(2)]


def test_held_out_identities_leave_training_and_no_other_does():
    held = hold_out(PEOPLE, 0.25, seed=1)
    pids = {t.pid for t in held.query}
    assert len(pids) == 5 and {t.pid for t in held.gallery} == pids
    assert {t.pid for t in held.train} == set(range(20)) - pids
    assert sorted(map(repr, [*held.train, *held.query, *held.gallery])) == sorted(map(repr, PEOPLE))
    # One query per identity and camera.
    assert len(held.query) == 15 == len({(t.pid, t.camid) for t in held.query}) and len(held.gallery) == 15
    assert held == hold_out(PEOPLE, 0.25, seed=1) and held.query != hold_out(PEOPLE, 0.25, seed=2).query


def test_only_identities_that_can_be_found_again_are_drawn():
    in_one_camera = [tracklet(100 + pid, 0, number) for pid in range(10) for number in range(2)]
    pids = {t.pid for t in hold_out([*PEOPLE, *in_one_camera], 0.5, seed=0).query}
    assert len(pids) == 15 and max(pids) < 100
    held = hold_out(in_one_camera, 0.3, seed=0)  # a set with one camera: two tracklets are enough
    assert len(held.query) == len(held.gallery) == 3
    with pytest.raises(InputError, match=r"2 of 3 training identities cannot be held out .*VAL_FRACTION 0.1"):
        hold_out([t for t in PEOPLE if t.pid < 3], 0.1, seed=0)


RAW = RawSplits(
    root="/set", train=[tracklet(1, 0), tracklet(1, 1)], query=[tracklet(2, 0)], gallery=[tracklet(2, 1)],
    cameras=("a", "b"), gallery_includes_query=True,
)  # fmt: skip


def test_frames_of_a_list_are_left_out_of_their_split_alone():
    left = Exclusions([("train", "1/0_0/1.jpg"), ("query", "1/1_0/0.jpg")]).apply(RAW)
    assert left.train[0].frames == ("/set/1/0_0/0.jpg", "/set/1/0_0/2.jpg")
    assert left.train[1] == RAW.train[1] and left.query[0] == RAW.query[0]
    everywhere = Exclusions([("", f"2/1_0/{frame}.jpg") for frame in range(3)]).apply(RAW)
    assert len(everywhere.gallery) == 0 and len(everywhere.query) == 1


def test_written_lists_are_read_back(tmp_path):
    rows = [("train", "a, b/ü.jpg", "truncated"), ("", "c.jpg", "person in train and test")]
    write_exclusions(tmp_path / "list.csv", rows)
    assert read_exclusions(str(tmp_path / "list.csv")).entries == {row[:2] for row in rows}
    assert len(read_exclusions("")) == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "needs the columns split,frame,reason"),
        (b"frame\nx.jpg\n", "needs the columns split,frame,reason"),
        (b"split,frame,reason\ntrain,x.jpg,\ntest,y.jpg,\n", "row 3: expected a split"),
        (b"split,frame,reason\ntrain\n", "row 2: expected a split"),
        (b"split,frame\ntrain,\xff\xfe.jpg\n", "cannot be read as a CSV file"),
    ],
)
def test_broken_lists(tmp_path, content, said):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        read_exclusions(str(tmp_path / "list.csv"))
    assert str(tmp_path / "list.csv") in str(error.value)
    with pytest.raises(InputError, match="does not exist"):
        read_exclusions(str(tmp_path / "absent.csv"))


def test_a_faulty_row_passes_only_when_all_its_frames_are_left_out():
    fault = Fault("row 3: mixes people", ("/set/a.jpg", "/set/b.jpg"), "/set")
    with pytest.raises(InputError, match="mixes people"):
        raise_or_warn(fault)
    with pytest.raises(InputError, match="mixes people"):
        unless_excluded(Exclusions([("train", "a.jpg")]))(fault)
    unless_excluded(Exclusions([("train", "a.jpg"), ("", "b.jpg")]))(fault)
    with pytest.raises(InputError):
        unless_excluded(Exclusions([("", "a.jpg")]))(Fault("no frames at all"))
    raise_or_warn(Fault("counts differ", blocks=False))
