"""Writes a synthetic video person re-identification data set of walking figures in the layout of MARS."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import product
from operator import attrgetter
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from skimage.filters import gaussian
from skimage.transform import downscale_local_mean

from datasets import walking_figure as drawing
from datasets.walking_figure import Figure
from utils.errors import InputError
from utils.progress import progress as show

VERSION, RECORD = 2, "synthetic.json"  # VERSION rises whenever equal arguments come to draw other pictures
JUNK, DISTRACTOR = -1, 0

MARKS = attrgetter("top_colour", "bottom_colour", "top", "pattern", "bottom", "carried", "head")


# Colour gain (RGB), saturation, gamma and brightness slopes (x, y) of a camera, the yaws (degrees) people walk at, its
# zoom, noise, blur (pixels at height 64) and JPEG quality, how far down its horizon is, what may stand before it.
Camera = namedtuple("Camera", "gain saturation gamma slope yaws zoom noise blur quality horizon obstacle")
CAMERAS = (
    Camera((1.00, 1.00, 1.00), 1.00, 1.00, (0.06, 0.03), (15, 165), 1.00, 0.012, 0.0, 92, 0.62, "nothing"),
    Camera((0.92, 0.99, 1.09), 0.88, 1.07, (-0.12, 0.05), (35, 145), 0.97, 0.015, 0.2, 88, 0.68, "pole"),
    Camera((1.09, 1.00, 0.89), 0.92, 0.93, (0.10, -0.08), (25, 155), 1.02, 0.015, 0.3, 86, 0.57, "railing"),
    Camera((0.88, 0.92, 0.89), 0.84, 1.04, (0.12, 0.09), (-20, 200), 1.00, 0.022, 0.1, 86, 0.70, "pole"),
    Camera((1.10, 1.12, 1.07), 0.80, 0.92, (-0.09, -0.10), (45, 135), 0.98, 0.015, 0.4, 88, 0.66, "nothing"),
    Camera((0.94, 1.07, 0.93), 0.93, 1.03, (-0.14, 0.09), (-15, 195), 1.02, 0.018, 0.2, 86, 0.60, "railing"),
)


@dataclass(frozen=True)
class Plan:
    """The arguments which fix every byte of the data set."""

    train_ids: int = field(default=96, metadata={"help": "identities to train with", "bounds": (2, 1000)})
    test_ids: int = field(default=32, metadata={"help": "other identities, to test with", "bounds": (2, 1000)})
    cameras: int = field(default=4, metadata={"help": "cameras", "bounds": (2, 6)})
    tracklets: int = field(default=2, metadata={"help": "tracklets per identity and camera", "bounds": (1, 9)})
    frames: tuple[int, int] = field(default=(6, 10), metadata={"help": "frames per tracklet", "bounds": ("LO", "HI")})
    size: tuple[int, int] = field(default=(64, 32), metadata={"help": "frame size in pixels", "bounds": ("H", "W")})
    seed: int = field(default=0, metadata={"help": "seed of every draw", "bounds": (0, 2**31)})

    def check(self) -> None:
        """Raise InputError, naming the argument, for values no data set can be drawn from."""
        for part in (part for part in fields(self) if isinstance(part.default, int)):
            (low, high), value = part.metadata["bounds"], getattr(self, part.name)
            if not low <= value <= high:
                raise InputError(f"{part.name.replace('_', ' ')} must be {low} to {high}, not {value}")
        if not 1 <= self.frames[0] <= self.frames[1] <= 999:
            raise InputError(f"frames must be LO HI with 1 <= LO <= HI <= 999, not {self.frames[0]} {self.frames[1]}")
        if not (32 <= self.size[0] <= 1024 and self.size[0] <= 3 * self.size[1] <= 3 * self.size[0]):
            raise InputError(f"size must be H from 32 to 1024 and W from H / 3 to H, not {self.size[0]} {self.size[1]}")


@dataclass(frozen=True)
class Walk:
    """One walk past one camera by one person, by two (junk) or by nobody (an empty box)."""

    split: str
    pid: int
    camera: int
    number: int
    people: tuple[Figure, ...]


def _rng(*key: int) -> np.random.Generator:
    """A generator of its own for each key (integers from -1 up), so that the order of the work does not matter."""
    return np.random.default_rng(np.random.SeedSequence([part + 1 for part in key]))


def draw_identity(rng: np.random.Generator) -> Figure:
    """A random person: discrete marks (garments, pattern, head, load) and a shape and gait of its own."""

    def one(choices: Sequence):
        return choices[int(rng.integers(len(choices)))]

    first, second = rng.choice(len(drawing.TOP_COLOURS), 2, replace=False)
    return Figure(
        stature=one((0.88, 0.96, 1.04)) + rng.uniform(-0.015, 0.015), girth=one((0.80, 1.0, 1.25)),
        leg=rng.uniform(0.44, 0.51), head_radius=rng.uniform(0.072, 0.088), skin=one(drawing.SKIN),
        head=one(drawing.HEADS), hair_colour=one(drawing.HAIR), hat_colour=one(drawing.GOODS),
        top=one(drawing.TOPS), pattern=one(drawing.PATTERNS), top_colour=drawing.TOP_COLOURS[first],
        second_colour=drawing.TOP_COLOURS[second], bottom=one(drawing.BOTTOMS),
        bottom_colour=one(drawing.BOTTOM_COLOURS), shoe_colour=one(drawing.SHOES), carried=one(drawing.CARRIED),
        carried_colour=one(drawing.GOODS), scarf=bool(rng.random() < 0.3), scarf_colour=one(drawing.TOP_COLOURS),
        cadence=rng.uniform(0.09, 0.16), stride=rng.uniform(0.32, 0.60), arm_swing=rng.uniform(0.15, 0.75),
        bounce=rng.uniform(0.0, 0.025), lean=rng.uniform(-0.04, 0.16),
    )


def identities(seed: int, split: int, count: int) -> list[Figure]:
    """`count` people of a split; where 20 draws find one, a newcomer differs from each in four of seven MARKS."""
    rng, people = _rng(1, seed, split), []
    while len(people) < count:
        for _ in range(20):
            person = draw_identity(rng)
            if all(sum(a != b for a, b in zip(MARKS(person), MARKS(old))) >= 4 for old in people):
                break
        people.append(person)
    return people


def plan_tracklets(plan: Plan) -> list[Walk]:
    """Every tracklet in the order of the lists: train, then test, each by pid (junk first), camera and number."""
    work, cameras, numbers = [], range(1, plan.cameras + 1), range(1, plan.tracklets + 1)
    for pid, most in ((JUNK, plan.test_ids // 8 + 2), (DISTRACTOR, plan.test_ids // 4 + 2)):
        for camera, number in product(cameras, range(1, most + 1)):
            rng = _rng(2, plan.seed, pid, camera, number)
            people = tuple(draw_identity(rng) for _ in range(number % 2 + (pid == JUNK)))
            work.append(Walk("test", pid, camera, number, people))
    known = identities(plan.seed, 0, plan.train_ids) + identities(plan.seed, 1, plan.test_ids)
    for (pid, person), camera, number in product(enumerate(known, 1), cameras, numbers):
        work.append(Walk("train" if pid <= plan.train_ids else "test", pid, camera, number, (person,)))
    return sorted(work, key=lambda track: track.split, reverse=True)


def _photograph(scene: np.ndarray, camera: Camera, light: tuple, rng: np.random.Generator) -> np.ndarray:
    """What a camera records of a scene (H, W, 3) in 0..1, as uint8; light: brightness slopes x and y, gain RGB."""
    grey = scene.mean(axis=2, keepdims=True)
    image = (grey + camera.saturation * (scene - grey)) * np.asarray(camera.gain) * light[2]
    down, along = (np.linspace(-1, 1, side) for side in image.shape[:2])
    image *= (1 + light[0] * along[None, :] + light[1] * down[:, None])[..., None]
    image = np.clip(image, 0, 1) ** camera.gamma
    if camera.blur:
        image = gaussian(image, camera.blur * image.shape[0] / 64, channel_axis=-1)
    image = image + rng.normal(0, camera.noise, image.shape)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def render(track: Walk, plan: Plan) -> list[np.ndarray]:
    """The frames of one tracklet, uint8 (H, W, 3) each; they depend on the plan and the tracklet's key only."""
    rng, camera = _rng(0, plan.seed, track.pid, track.camera, track.number), CAMERAS[track.camera - 1]
    shrink = 3 if plan.size[0] < 128 else 2
    height, width = (shrink * side for side in plan.size)
    street = drawing.draw_street((plan.seed, track.camera), height, camera.horizon)
    yaw = float(np.deg2rad(camera.yaws[int(rng.integers(2))] + rng.uniform(-10, 10)))
    speed, start = 0.05 * height * np.sign(np.cos(yaw)), rng.uniform(0, 6 * height)
    light = (*(camera.slope + rng.uniform(-0.07, 0.07, 2)), rng.uniform(0.9, 1.1) * rng.uniform(0.97, 1.03, 3))
    tall, phase = 0.87 * height * camera.zoom * rng.uniform(0.96, 1.04), rng.uniform(0, 2 * np.pi)
    obstacle = camera.obstacle if rng.random() < 0.15 else "nothing"
    passer = draw_identity(rng) if rng.random() < 0.06 else None
    in_front, meets, shift = rng.random() < 0.5, rng.uniform(0.1, 0.9), rng.uniform(-0.03, 0.03, 2)
    # A junk box misses its person by half; a second person, if any, stands on the other side.
    places = np.array((1.0, -0.3)) * (rng.choice((-0.42, 0.42)) if track.pid == JUNK else 0.0)
    count, frames = int(rng.integers(plan.frames[0], plan.frames[1] + 1)), []
    for index in range(count):
        scene = street[:, (np.arange(width) + int(start + speed * index)) % street.shape[1]].copy()
        jitter, ahead = shift + rng.normal(0, 0.008, 2), (meets * count - index) * speed
        ground = height * (0.955 + 0.5 * jitter[1])
        walks = [(person, width * (0.5 + jitter[0] + place), yaw, ground, person.cadence)
                 for person, place in zip(track.people, places)]
        if passer is not None:
            away = width / 2 + 2.2 * ahead
            walks.insert(len(walks) if in_front else 0, (passer, away, np.pi - yaw, ground * 0.98, passer.cadence))
        for person, column, way, feet, cadence in walks:
            turn = phase + 2 * np.pi * cadence * index
            drawing.draw_figure(scene, person, column=column, ground=feet, height=tall, yaw=way, phase=turn)
        drawing.draw_obstacle(scene, obstacle, width / 2 + ahead)
        frames.append(_photograph(downscale_local_mean(scene, (shrink, shrink, 1)), camera, light, rng))
    return frames


def _write_tracklet(track: Walk, plan: Plan, root: Path) -> list[str]:
    """Draw and write one tracklet; the names of its frames."""
    stem = "00-1" if track.pid == JUNK else f"{track.pid:04d}"
    folder, frames = root / f"bbox_{track.split}" / stem, render(track, plan)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{stem}C{track.camera}T{track.number:04d}F{index:03d}.jpg" for index in range(1, len(frames) + 1)]
    for name, frame in zip(names, frames):
        Image.fromarray(frame).save(folder / name, quality=CAMERAS[track.camera - 1].quality)
    return names


def _draw_all(tracks: Sequence[Walk], plan: Plan, root: Path, workers: int, progress: bool) -> list[list[str]]:
    """Write every tracklet, in this process (workers 0) or in several; the frame names in the order of `tracks`."""
    job, bar = partial(_write_tracklet, plan=plan, root=root), partial(show, total=len(tracks), hidden=not progress)
    if workers == 0:
        return list(bar(map(job, tracks), "drawing", "tracklet"))
    # Workers inherit the ignored Ctrl-C: the parent alone ends the run, and no worker prints a traceback.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pool = multiprocessing.get_context("spawn").Pool(workers)
    finally:
        signal.signal(signal.SIGINT, before)
    with pool:
        return list(bar(pool.imap(job, tracks, chunksize=4), "drawing", "tracklet"))


def _write_lists(info: Path, tracks: Sequence[Walk], names: Sequence[Sequence[str]]) -> dict[str, int]:
    """Write the name lists and the .mat tables of MARS; the counts."""
    info.mkdir()
    counts, tables = {}, {}
    for split in ("train", "test"):
        mine = [(track, part) for track, part in zip(tracks, names) if track.split == split]
        ends = np.cumsum([len(part) for _, part in mine])
        rows = [(end - len(part) + 1, end, track.pid, track.camera) for end, (track, part) in zip(ends, mine)]
        (info / f"{split}_name.txt").write_text("".join(f"{name}\n" for _, part in mine for name in part))
        tables[f"tracks_{split}_info"] = {f"track_{split}_info": np.array(rows, np.int32)}
        counts |= {f"{split}_tracklets": len(rows), f"{split}_frames": int(ends[-1])}
    query = [row for row, (track, _) in enumerate(mine, 1) if track.pid > 0 and track.number == 1]
    tables["query_IDX"] = {"query_IDX": np.array([query], np.uint16)}
    for stem, table in tables.items():
        path = info / f"{stem}.mat"
        savemat(path, table)
        # The header names the hour of writing, which would differ between two equal runs.
        path.write_bytes(b"MATLAB 5.0 MAT-file, walking figures".ljust(116) + path.read_bytes()[116:])
    return counts | {"queries": len(query)}


def finished(root: Path, arguments: dict, overwrite: bool) -> dict | None:
    """The counts of this very set in `root`, None where it is to be written; InputError for anything in the way."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        record = json.loads((root / RECORD).read_text())
        same, counts = record["arguments"] == arguments, record["counts"]
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{root} is there and holds no {RECORD} of ours: choose another --root") from None
    if not (same or overwrite):
        raise InputError(f"{root} holds a synthetic set with other arguments: choose another --root or --overwrite")
    return counts if same else None


def write_mars(root: Path, *, workers: int = 2, overwrite: bool = False, progress: bool = False, **arguments) -> dict:
    """Write the set into `root` unless it is there already (up_to_date); the counts of tracklets, frames and queries.

    The other keyword arguments are the fields of Plan. Raises InputError for bad ones or a folder in the way.
    Unless workers is 0 it must be called from the main thread, because it holds back Ctrl-C while workers start.
    """
    plan, root = Plan(**arguments), Path(root).resolve()
    plan.check()
    if not 0 <= workers <= 64:
        raise InputError(f"workers must be 0 to 64, not {workers}")
    recorded = json.loads(json.dumps({"version": VERSION, **asdict(plan)}))
    part, old = (root.parent / f".{root.name}.{kind}-{os.getpid()}" for kind in ("part", "old"))
    try:
        if counts := finished(root, recorded, overwrite):
            return counts | {"up_to_date": True}
        part.mkdir(parents=True)
        tracks = plan_tracklets(plan)
        counts = _write_lists(part / "info", tracks, _draw_all(tracks, plan, part, workers, progress))
        (part / RECORD).write_text(json.dumps({"arguments": recorded, "counts": counts}, indent=1) + "\n")
        if root.exists():
            root.rename(old)
        part.rename(root)
    except OSError as fault:
        raise InputError(f"cannot write {root}: {fault.strerror or fault}") from fault
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
    return counts | {"up_to_date": False}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when the set is there, 2 for bad input (one line on stderr), 130 when interrupted."""
    parser = _Parser(prog="datasets.synthetic", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    for part in fields(Plan):
        shape = {} if isinstance(part.default, int) else {"nargs": 2, "metavar": part.metadata["bounds"]}
        about = f"{part.metadata['help']} (default {part.default})"
        parser.add_argument(f"--{part.name.replace('_', '-')}", type=int, default=part.default, help=about, **shape)
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 draws in this one (default 2)")
    parser.add_argument("--overwrite", action="store_true", help="replace a synthetic set with other arguments")
    arguments = vars(parser.parse_args(argv))
    try:
        counts = write_mars(**arguments, progress=True)
    except (InputError, KeyboardInterrupt) as fault:
        print(f"{parser.prog}: {str(fault) or 'interrupted, nothing is left behind'}", file=sys.stderr)
        return 2 if isinstance(fault, InputError) else 130
    state = "up to date" if counts.pop("up_to_date") else "written"
    print(f"{arguments['root']}: {state}, " + ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
