"""Draws walking people and the scenes they cross, as float RGB pictures with values in 0..1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from skimage.draw import ellipse, polygon
from skimage.filters import gaussian

Colour = tuple[float, float, float]
Paint = Colour | Callable[[np.ndarray, np.ndarray], np.ndarray]

TOPS = ("tshirt", "long", "coat")
PATTERNS = ("plain", "stripes", "blocks", "print", "sleeves")
BOTTOMS = ("trousers", "shorts", "skirt")
HEADS = ("short", "long", "bald", "bun", "cap", "hat", "beanie")
CARRIED = ("nothing", "backpack", "shoulder bag", "briefcase")
TOP_COLOURS = ((0.74, 0.13, 0.13), (0.13, 0.24, 0.66), (0.10, 0.48, 0.22), (0.86, 0.74, 0.18), (0.88, 0.88, 0.86),
               (0.10, 0.10, 0.12))
BOTTOM_COLOURS = ((0.14, 0.15, 0.20), (0.22, 0.33, 0.58), (0.66, 0.56, 0.40), (0.48, 0.12, 0.16))
SKIN = ((0.90, 0.72, 0.58), (0.72, 0.52, 0.38), (0.42, 0.28, 0.20))
HAIR = ((0.08, 0.07, 0.07), (0.36, 0.20, 0.09), (0.80, 0.64, 0.30), (0.62, 0.62, 0.62))
GOODS = ((0.08, 0.08, 0.09), (0.70, 0.10, 0.12), (0.55, 0.34, 0.14), (0.10, 0.45, 0.55))
SHOES = ((0.08, 0.08, 0.08), (0.92, 0.92, 0.92), (0.75, 0.15, 0.12))


@dataclass(frozen=True)
class Figure:
    """One person: lengths in body heights, angles in radians, cadence in gait cycles per frame, colours RGB 0..1."""

    stature: float
    girth: float
    leg: float
    head_radius: float
    skin: Colour
    head: str
    hair_colour: Colour
    hat_colour: Colour
    top: str
    pattern: str
    top_colour: Colour
    second_colour: Colour
    bottom: str
    bottom_colour: Colour
    shoe_colour: Colour
    carried: str
    carried_colour: Colour
    scarf: bool
    scarf_colour: Colour
    cadence: float
    stride: float
    arm_swing: float
    bounce: float
    lean: float


class _Pen:
    """Paints shapes given in body space (x forward, z up, y to the person's right; 1 = body height) into (H, W, 3)."""

    def __init__(self, image: np.ndarray, column: float, ground: float, scale: float, yaw: float) -> None:
        self.image, self.column, self.ground, self.scale = image, column, ground, scale
        self.cos, self.sin = float(np.cos(yaw)), float(np.sin(yaw))
        self.shade = 1.0

    def at(self, x: float, z: float, y: float = 0.0) -> np.ndarray:
        """The (column, row) of a body-space point, in pixels; yaw 0 walks right, 90 degrees walks to the viewer."""
        across = x * self.cos - y * self.sin
        return np.array((self.column + across * self.scale, self.ground - z * self.scale))

    def fill(self, points: np.ndarray, paint: Paint) -> None:
        """Fill the polygon of (n, 2) columns and rows with a colour, or with a function of its pixels."""
        rows, cols = polygon(points[:, 1], points[:, 0], self.image.shape[:2])
        self.image[rows, cols] = np.asarray(paint(rows, cols) if callable(paint) else paint) * self.shade

    def limb(self, start: np.ndarray, end: np.ndarray, radii: tuple[float, float], colour: Colour) -> None:
        """A rounded, tapered bar between two pixel positions; radii in body heights."""
        turn = np.arctan2(end[1] - start[1], end[0] - start[0]) + np.linspace(0.5, 1.5, 7) * np.pi
        half = np.stack((np.cos(turn), np.sin(turn)), axis=1) * self.scale
        self.fill(np.concatenate((start + half * radii[0], end - half * radii[1])), colour)

    def oval(self, centre: np.ndarray, half_width: float, half_height: float, colour: Colour) -> None:
        """An upright ellipse around a pixel position; the half axes in body heights."""
        radii = (half_height * self.scale, half_width * self.scale)
        rows, cols = ellipse(centre[1], centre[0], *radii, self.image.shape[:2])
        self.image[rows, cols] = np.asarray(colour) * self.shade

    def drape(self, outline: Sequence[tuple[np.ndarray, float]], paint: Paint) -> None:
        """A symmetric shape, given from top to bottom by middles (pixel positions) and half widths (body heights)."""
        right = [(middle[0] + width * self.scale, middle[1]) for middle, width in outline]
        left = [(middle[0] - width * self.scale, middle[1]) for middle, width in outline]
        self.fill(np.array(right + left[::-1]), paint)


def _swung(length: float, angle: float) -> np.ndarray:
    """The (x, z) of the end of a rod that hangs from the origin and is swung forward by an angle (radians)."""
    return length * np.array((np.sin(angle), -np.cos(angle)))


class _Pose:
    """Joints at a gait phase (radians): hip height and shoulder; for each side (+1 right, -1 left) knee, ankle, swing.

    Joints are (x, z) in body heights; the lower foot stands on the ground unless a bouncy step lifts it.
    """

    def __init__(self, person: Figure, phase: float) -> None:
        self.swing = {1: float(np.sin(phase)), -1: -float(np.sin(phase))}
        thighs = {side: 0.06 + person.stride * swing for side, swing in self.swing.items()}
        # The knee bends while the leg swings forward; otherwise the foot would pass through the ground.
        bends = {side: 0.10 + 1.5 * person.stride * max(0.0, side * float(np.cos(phase))) for side in self.swing}
        knees = {side: _swung(person.leg / 2, thighs[side]) for side in thighs}
        ankles = {side: knees[side] + _swung(person.leg / 2, thighs[side] - bends[side]) for side in thighs}
        self.hip = person.bounce * abs(float(np.cos(phase))) - min(ankle[1] for ankle in ankles.values())
        self.knees, self.ankles = ({side: joint[side] + (0, self.hip) for side in joint} for joint in (knees, ankles))
        self.shoulder = (0, self.hip) - _swung(1.0 - person.leg - 2 * person.head_radius - 0.03, -person.lean)


def _leg(pen: _Pen, person: Figure, pose: _Pose, side: int) -> None:
    """One leg with its shoe; trousers reach the ankle, shorts the knee, under a skirt the leg is bare."""
    girth, y = person.girth, side * 0.05 * person.girth
    hip, knee, ankle = pen.at(0, pose.hip, y), pen.at(*pose.knees[side], y), pen.at(*pose.ankles[side], y)
    shin_paint = person.bottom_colour if person.bottom == "trousers" else person.skin
    thigh_paint = person.skin if person.bottom == "skirt" else person.bottom_colour
    along, down = (pose.ankles[side] - pose.knees[side]) / (person.leg / 2)
    toe = pen.at(*(pose.ankles[side] + 0.085 * np.array((-down, along))), y)
    pen.limb(knee, ankle, (0.042 * girth, 0.030 * girth), shin_paint)
    pen.limb(hip, knee, (0.062 * girth, 0.047 * girth), thigh_paint)
    pen.limb(ankle, toe, (0.032, 0.022), person.shoe_colour)


def _arm(pen: _Pen, person: Figure, pose: _Pose, side: int) -> None:
    """One arm, swinging against the leg of its side; the right hand holds the briefcase."""
    girth, y = person.girth, side * (0.105 * person.girth + 0.012)
    holds = person.carried == "briefcase" and side == 1
    angle = -(0.25 if holds else 1.0) * person.arm_swing * pose.swing[side]
    shoulder = pose.shoulder - (0, 0.03)
    elbow = shoulder + _swung(0.16, angle)
    hand = elbow + _swung(0.16, angle + (0.05 if holds else 0.25 + 0.4 * person.arm_swing))
    sleeve = person.second_colour if person.pattern == "sleeves" else person.top_colour
    if holds:
        width = 0.05 + 0.06 * abs(pen.cos)
        sides = [(pen.at(hand[0], hand[1] - low, y), width) for low in (0.025, 0.175)]
        pen.drape(sides, person.carried_colour)
    lower = person.skin if person.top == "tshirt" else sleeve
    pen.limb(pen.at(*elbow, y), pen.at(*hand, y), (0.030 * girth, 0.024 * girth), lower)
    pen.oval(pen.at(*hand, y), 0.026, 0.026, person.skin)
    pen.limb(pen.at(*shoulder, y * 0.9), pen.at(*elbow, y), (0.043 * girth, 0.034 * girth), sleeve)


def _top_paint(pen: _Pen, person: Figure, neck: np.ndarray, hem: np.ndarray, half: float) -> Paint:
    """The colours of the upper garment (2 * `half` body heights wide) as a function of its pixels."""
    # There is a print on the chest and one on the back, so one of them is seen at any yaw.
    print_at = 0.55 * pen.cos * (1 if pen.sin >= 0 else -1)

    def paint(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        down = (rows - neck[1]) / pen.scale
        middle = neck[0] + np.clip((rows - neck[1]) / (hem[1] - neck[1]), 0, 1) * (hem[0] - neck[0])
        across = (cols - middle) / (half * pen.scale)
        marked = np.zeros(rows.shape, bool)
        if person.pattern == "stripes":
            marked = np.floor(down / 0.055) % 2 == 1
        elif person.pattern == "blocks":
            marked = down > 0.17
        elif person.pattern == "print":
            marked = ((across - print_at) / 0.62) ** 2 + ((down - 0.15) / 0.075) ** 2 < 1
        colours = np.where(marked[:, None], person.second_colour, person.top_colour)
        return colours * (1.0 - 0.22 * np.clip(np.abs(across), 0, 1.2) ** 2)[:, None]

    return paint


def _garments(pen: _Pen, person: Figure, pose: _Pose) -> None:
    """The skirt and the upper garment; skirt and coat widen with the step."""
    half = person.girth * float(np.hypot(0.085 * pen.cos, 0.125 * pen.sin))
    spread = abs((pose.knees[1][0] - pose.knees[-1][0]) * pen.cos) / 2
    knee = min(z for _, z in pose.knees.values())
    neck = pen.at(pose.shoulder[0], pose.shoulder[1] + 0.015)
    hip, hem = pen.at(0, pose.hip), pen.at(0, pose.hip - 0.045)
    if person.bottom == "skirt":
        skirt = ((hip, 0.8 * half), (pen.at(0, knee - 0.03), 0.9 * half + 0.7 * spread + 0.02))
        pen.drape(skirt, person.bottom_colour)
    torso = [(neck, 0.5 * half), (neck + (0, 0.03 * pen.scale), half), (neck + 0.6 * (hip - neck), 0.84 * half),
             (hem, 0.9 * half)]
    if person.top == "coat":
        hem = pen.at(0, knee)
        torso.append((hem, 0.9 * half + 0.55 * spread))
    pen.drape(torso, _top_paint(pen, person, neck, hem, half))


def _head(pen: _Pen, person: Figure, pose: _Pose) -> None:
    """Neck, face, hair or hat, scarf; the face shows on the side the person walks to."""
    r, (neck_x, neck_z) = person.head_radius, pose.shoulder
    x, z = neck_x + 0.5 * person.lean * r, neck_z + 0.03 + r
    pen.limb(pen.at(neck_x, neck_z), pen.at(x, z), (0.034, 0.030), person.skin)
    hair = person.skin if person.head == "bald" else person.hair_colour
    pen.oval(pen.at(x, z), r * 0.92, r, hair)
    turned = 0.0 if pen.sin > 0 else 0.55
    pen.oval(pen.at(x + (0.35 + turned) * r, z - 0.22 * r), r * (0.72 - 0.55 * turned), r * 0.74, person.skin)
    if person.head == "long":
        pen.limb(pen.at(x - 0.65 * r, z + 0.2 * r), pen.at(x - 0.9 * r, z - 2.3 * r), (0.6 * r, 0.5 * r), hair)
    elif person.head == "bun":
        pen.oval(pen.at(x - 0.75 * r, z + 0.95 * r), 0.55 * r, 0.5 * r, hair)
    elif person.head in ("cap", "hat", "beanie"):
        dome, brow = np.linspace(np.pi, 2 * np.pi, 9), pen.at(x, z + 0.15 * r)
        size = np.array((1.08, 1.35 if person.head == "beanie" else 1.15)) * r * pen.scale
        pen.fill(brow + np.stack((np.cos(dome), np.sin(dome)), axis=1) * size, person.hat_colour)
        if person.head == "cap":
            pen.limb(brow, pen.at(x + 1.75 * r, z + 0.1 * r), (0.2 * r, 0.16 * r), person.hat_colour)
        elif person.head == "hat":
            pen.oval(brow, 1.9 * r, 0.3 * r, person.hat_colour)
    if person.scarf:
        ends = pen.at(neck_x + 0.05, neck_z), pen.at(neck_x + 0.06, neck_z - 0.13)
        pen.limb(*ends, (0.03, 0.026), person.scarf_colour)
        pen.oval(pen.at(neck_x, neck_z + 0.02), 0.085, 0.036, person.scarf_colour)


def _load(pen: _Pen, person: Figure, pose: _Pose, *, straps: bool) -> None:
    """The backpack, or the shoulder bag at the right hip; with `straps` only the straps of either."""
    x, z = pose.shoulder
    if person.carried == "shoulder bag" and straps:
        pen.limb(pen.at(x, z, -0.09), pen.at(0, pose.hip + 0.05, 0.12), (0.013, 0.013), person.carried_colour)
    elif person.carried == "shoulder bag":
        pen.drape([(pen.at(0, pose.hip + up, 0.13), 0.085) for up in (0.07, -0.05)], person.carried_colour)
    elif person.carried == "backpack" and not straps:
        pen.limb(pen.at(x - 0.15, z - 0.08), pen.at(x - 0.15, z - 0.19), (0.075, 0.085), person.carried_colour)
    elif person.carried == "backpack" and pen.sin >= 0:
        for y in (-0.07, 0.07):
            pen.limb(pen.at(x + 0.02, z, y), pen.at(x + 0.05, z - 0.17, y), (0.014, 0.014), person.carried_colour)


def draw_figure(
    image: np.ndarray, person: Figure, *, column: float, ground: float, height: float, yaw: float, phase: float
) -> None:
    """Paint one walking person into `image` (H, W, 3) in place.

    column and ground are the pixels of the feet, height the pixels of a person of stature 1, yaw (radians) the
    walking direction (0 right, pi left, pi/2 towards the viewer), phase (radians) the point in the gait cycle.
    """
    scale = height * person.stature
    pen, pose = _Pen(image, column, ground, scale, yaw), _Pose(person, phase)
    near = 1 if pen.cos >= 0 else -1
    load_near = pen.sin < 0 if person.carried == "backpack" else near > 0
    rows, cols = ellipse(ground, column, 0.03 * scale, 0.22 * scale, image.shape[:2])
    image[rows, cols] *= 0.6
    pen.shade = 0.74
    if not load_near:
        _load(pen, person, pose, straps=False)
    _arm(pen, person, pose, -near)
    _leg(pen, person, pose, -near)
    pen.shade = 1.0
    _leg(pen, person, pose, near)
    _garments(pen, person, pose)
    _load(pen, person, pose, straps=True)
    _head(pen, person, pose)
    if load_near:
        _load(pen, person, pose, straps=False)
    pen.shade = 0.88  # sets the near sleeve off from the torso
    _arm(pen, person, pose, near)


@lru_cache(maxsize=8)
def draw_street(key: tuple[int, int], height: int, horizon: float) -> np.ndarray:
    """The street of a (seed, camera) with wall, windows, bushes and ground: (height, 6 height, 3) in 0..1."""
    rng, width = np.random.default_rng(np.random.SeedSequence(key)), 6 * height
    image, edge = np.empty((height, width, 3), np.float32), int(horizon * height)
    image[:edge] = rng.uniform(0.45, 0.60) + rng.uniform(-0.04, 0.04, 3)
    image[edge:] = rng.uniform(0.40, 0.55) + rng.uniform(-0.04, 0.04, 3)
    for _ in range(42):
        top, left = int(rng.uniform(-0.1, 0.95) * edge), int(rng.uniform(0, width))
        bottom, right = top + rng.uniform(0.08, 0.4) * height, left + rng.uniform(0.06, 0.35) * height
        patch = image[max(top, 0) : min(int(bottom), edge), left : int(right)]
        patch[:] = 0.55 * patch + 0.45 * (rng.uniform(0.2, 0.8) + rng.uniform(-0.15, 0.15, 3))
    for _ in range(18):
        radii = rng.uniform(0.05, 0.16, 2) * height
        rows, cols = ellipse(edge, rng.uniform(0, width), *radii, (edge + int(0.03 * height), width))
        image[rows, cols] = np.array((0.2, 0.38, 0.18)) * rng.uniform(0.6, 1.5)
    for row in np.linspace(edge, height, 5)[1:-1]:
        image[int(row) : int(row) + max(1, height // 64)] *= 0.8
    grain = gaussian(rng.normal(0, 1, (height, width)), height / 60)
    image += (0.025 * grain / grain.std())[..., None]
    return gaussian(np.clip(image, 0, 1), height / 130, channel_axis=-1).astype(np.float32)


def draw_obstacle(image: np.ndarray, kind: str, column: float) -> None:
    """Paint into (H, W, 3) what stands before the person: a "pole" at a column, or a knee-high "railing"."""
    height, width = image.shape[:2]
    if kind == "pole":
        left, right = np.clip((column - 0.03 * height, column + 0.03 * height), 0, width).astype(int)
        image[:, left:right] = (0.30, 0.31, 0.33)
    elif kind == "railing":
        for row in (0.74, 0.84):
            image[int(row * height) : int((row + 0.018) * height)] = (0.55, 0.56, 0.58)
