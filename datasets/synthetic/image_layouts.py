"""The layouts of Market-1501 and MSMT17, whose images are the frames of the synthetic walks."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datasets.synthetic.layouts import TWO_TRACKLETS, Layout, draw_images
from datasets.synthetic.walks import JUNK, Plan, Walk

_SEQUENCES = 6  # of a camera of Market-1501
_DAYTIMES = ("morning", "noon", "afternoon")
_VAL_STEP = 10  # each tenth training image of MSMT17 is in its validation list


def _market_name(walk: Walk, plan: Plan, number: int) -> str:
    """The first image of each test person in each camera is a query; its box has number 0, which means hand-drawn."""
    is_query = walk.is_query and number == 1
    folder = "bounding_box_train" if walk.split == "train" else "query" if is_query else "bounding_box_test"
    person = str(JUNK) if walk.pid == JUNK else f"{walk.pid:04d}"
    # A walk has at most 999 frames, so no two images of a person in a camera get the same frame number.
    frame, sequence = 1000 * walk.number + number, (walk.number - 1) % _SEQUENCES + 1
    return f"{folder}/{person}_c{walk.camera}s{sequence}_{frame:06d}_{0 if is_query else 1:02d}.jpg"


def _count_images(root: Path, plan: Plan, walks: Sequence[Walk], drawn: Sequence[Sequence[str]]) -> dict[str, int]:
    """Images of training, images of the test (with junk and queries), and queries; Market-1501 has no lists."""
    trained = sum(len(names) for walk, names in zip(walks, drawn) if walk.split == "train")
    tested = sum(map(len, drawn)) - trained
    return {"train_images": trained, "test_images": tested, "queries": sum(walk.is_query for walk in walks)}


def _label(walk: Walk, plan: Plan) -> int:
    """The number of a person: from 0 in training, and from 0 again in the test."""
    return walk.pid - 1 if walk.split == "train" else walk.pid - 1 - plan.train_ids


def _msmt_name(walk: Walk, plan: Plan, number: int) -> str:
    """The fields of a name: person, image of the person, camera, date and time of day, frame, box."""
    person, daytime = f"{_label(walk, plan):04d}", _DAYTIMES[(walk.number - 1) % len(_DAYTIMES)]
    # Each walk takes as many numbers as the longest one may have; numbers that are left out do no harm.
    image = ((walk.camera - 1) * plan.tracklets + walk.number - 1) * plan.frames[1] + number - 1
    return f"mask_{walk.split}_v2/{person}/{person}_{image:03d}_{walk.camera:02d}_0303{daytime}_{number:04d}_0.jpg"


def _describe_msmt(root: Path, plan: Plan, walks: Sequence[Walk], drawn: Sequence[Sequence[str]]) -> dict[str, int]:
    """Write the four lists: images below their folder and labels."""
    train, query, gallery = [], [], []
    for walk, names in zip(walks, drawn):
        lines = [f"{name.partition('/')[2]} {_label(walk, plan)}\n" for name in names]
        if walk.split == "train":
            train += lines
        else:
            query += lines[: int(walk.is_query)]
            gallery += lines[int(walk.is_query) :]
    val = train[_VAL_STEP - 1 :: _VAL_STEP]
    del train[_VAL_STEP - 1 :: _VAL_STEP]
    for name, lines in {"train": train, "val": val, "query": query, "gallery": gallery}.items():
        (root / f"list_{name}.txt").write_text("".join(lines))
    return _count_images(root, plan, walks, drawn)


MARKET1501 = Layout(partial(draw_images, name=_market_name), _count_images, limits=TWO_TRACKLETS)
MSMT17 = Layout(partial(draw_images, name=_msmt_name), _describe_msmt, lowest_pid=1, limits=TWO_TRACKLETS)
