"""Plans the walks of a synthetic data set and draws their frames, whatever its layout on disk."""

from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from operator import attrgetter

import numpy as np
from skimage.filters import gaussian
from skimage.transform import downscale_local_mean

from datasets.synthetic import figure as drawing
from datasets.synthetic.figure import Figure
from utils.errors import InputError

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
    frames: tuple[int, int] = field(default=(6, 10), metadata={"help": "frames per tracklet", "names": ("LO", "HI")})
    size: tuple[int, int] = field(default=(64, 32), metadata={"help": "frame size in pixels", "names": ("H", "W")})
    seed: int = field(default=0, metadata={"help": "seed of every draw", "bounds": (0, 2**31)})

    def check(self, layout: str, limits: Mapping[str, tuple[int, int]]) -> None:
        """Raise InputError naming the first field out of its bounds, or out of the closer `limits` of the layout."""
        for part in (part for part in fields(self) if isinstance(part.default, int)):
            (low, high), value = limits.get(part.name, part.metadata["bounds"]), getattr(self, part.name)
            if not low <= value <= high:
                allowed = str(low) if low == high else f"{low} to {high}"
                where = f" with --layout {layout}" if part.name in limits else ""
                raise InputError(f"{part.name.replace('_', ' ')} must be {allowed}{where}, not {value}")
        if not 1 <= self.frames[0] <= self.frames[1] <= 999:
            raise InputError(f"frames must be LO HI with 1 <= LO <= HI <= 999, not {self.frames[0]} {self.frames[1]}")
        if not (32 <= self.size[0] <= 1024 and self.size[0] <= 3 * self.size[1] <= 3 * self.size[0]):
            raise InputError(f"size must be H from 32 to 1024 and W from H / 3 to H, not {self.size[0]} {self.size[1]}")


@dataclass(frozen=True)
class Walk:
    """A tracklet to draw: a person walks past a camera; junk shows one or two people, a distractor one or none."""

    split: str  # 'train', 'test' or 'val'
    pid: int  # from 1, or JUNK or DISTRACTOR
    camera: int  # from 1
    number: int  # of the tracklet, from 1 for each person and camera
    people: tuple[Figure, ...]

    @property
    def is_query(self) -> bool:
        """Whether it is the query of its person and camera."""
        return self.split != "train" and self.pid > 0 and self.number == 1


def generator(*key: int) -> np.random.Generator:
    """A new generator for each key (integers from -1 up): the pictures do not depend on the order of drawing."""
    return np.random.default_rng(np.random.SeedSequence([part + 1 for part in key]))


def draw_identity(rng: np.random.Generator) -> Figure:
    """A random person: garments, head and load from lists; shape and gait from ranges."""

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
    """`count` people of a split; each differs from all before in at least four MARKS, if 20 draws find such a one."""
    rng, people = generator(1, seed, split), []
    while len(people) < count:
        for _ in range(20):
            person = draw_identity(rng)
            if all(sum(a != b for a, b in zip(MARKS(person), MARKS(old))) >= 4 for old in people):
                break
        people.append(person)
    return people


def plan_tracklets(plan: Plan) -> list[Walk]:
    """Every tracklet in the order of the lists: train, then test, each by pid (junk first), camera and number."""
    nameless, cameras = [], range(1, plan.cameras + 1)
    for pid, most in ((JUNK, plan.test_ids // 8 + 2), (DISTRACTOR, plan.test_ids // 4 + 2)):
        for camera, number in product(cameras, range(1, most + 1)):
            rng = generator(2, plan.seed, pid, camera, number)
            people = tuple(draw_identity(rng) for _ in range(number % 2 + (pid == JUNK)))
            nameless.append(Walk("test", pid, camera, number, people))
    train = _walks_of("train", 1, identities(plan.seed, 0, plan.train_ids), plan)
    test = _walks_of("test", 1 + plan.train_ids, identities(plan.seed, 1, plan.test_ids), plan)
    return train + nameless + test


def plan_validation(plan: Plan) -> list[Walk]:
    """The tracklets of further people, by pid (the numbers after the test identities), camera and number."""
    people = identities(plan.seed, 2, plan.test_ids // 4 + 2)
    return _walks_of("val", 1 + plan.train_ids + plan.test_ids, people, plan)


def _walks_of(split: str, first_pid: int, people: Sequence[Figure], plan: Plan) -> list[Walk]:
    cameras, numbers = range(1, plan.cameras + 1), range(1, plan.tracklets + 1)
    return [Walk(split, pid, camera, number, (person,))
            for (pid, person), camera, number in product(enumerate(people, first_pid), cameras, numbers)]


def photograph(scene: np.ndarray, camera: Camera, light: tuple, rng: np.random.Generator) -> np.ndarray:
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
    rng, camera = generator(0, plan.seed, track.pid, track.camera, track.number), CAMERAS[track.camera - 1]
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
        frames.append(photograph(downscale_local_mean(scene, (shrink, shrink, 1)), camera, light, rng))
    return frames
