"""The layouts of data that users bring, for the synthetic walks: folders of crops, full pictures, and videos."""

import csv
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import av
import numpy as np

from datasets.synthetic import figure as drawing
from datasets.synthetic.layouts import TWO_TRACKLETS, Layout, count_walks, draw_images
from datasets.synthetic.walks import CAMERAS, DISTRACTOR, Plan, Walk, generator, photograph, render

CAMERA_NAMES = ("north gate", "south gate", "car park", "footbridge", "main hall", "stairs")
_FRAMES_PER_SECOND = 25


def _key(walk: Walk) -> tuple[str, str, str, str]:
    """Split, person, camera and tracklet in words; every distractor is a person of its own."""
    split = "train" if walk.split == "train" else "query" if walk.is_query else "gallery"
    camera, tracklet = CAMERA_NAMES[walk.camera - 1], f"{walk.number:04d}"
    person = f"stranger-{walk.camera}-{tracklet}" if walk.pid <= 0 else f"person-{walk.pid:03d}"
    return split, person, camera, tracklet


def _folder_name(walk: Walk, plan: Plan, number: int) -> str:
    split, person, camera, tracklet = _key(walk)
    return f"{split}/{person}/{camera}_{tracklet}/{number:06d}.jpg"


def _full_size(plan: Plan) -> tuple[int, int]:
    """Height and width of a full picture: even, half as tall again as a frame and three times as wide."""
    return 2 * round(1.5 * plan.size[0] / 2), 2 * round(3 * plan.size[1] / 2)


@lru_cache(maxsize=len(CAMERAS))
def _empty_street(seed: int, camera: int, height: int, width: int) -> np.ndarray:
    """What a camera (from 1) sees before anybody comes, uint8 (height, width, 3)."""
    look = CAMERAS[camera - 1]
    scene = drawing.draw_street((seed, camera), height, look.horizon)[:, :width]
    return photograph(scene, look, (*look.slope, 1.0), generator(6, seed, camera))


def _boxes(walk: Walk, plan: Plan, count: int) -> list[tuple[int, int, int, int]]:
    """Box (x, y, w, h) of the person in each of the `count` full pictures of a walk."""
    (tall, wide), (height, width) = plan.size, _full_size(plan)
    rng = generator(4, plan.seed, walk.pid, walk.camera, walk.number)
    top = int(rng.integers(height - tall + 1))
    lefts = np.linspace(*rng.integers(0, width - wide + 1, 2), count).astype(int).tolist()
    return [(left, top, wide, tall) for left in lefts]


def _full_pictures(walk: Walk, plan: Plan) -> list[np.ndarray]:
    """The frames of a walk, each put into the street at its box."""
    pictures, frames = [], render(walk, plan)
    for frame, (x, y, w, h) in zip(frames, _boxes(walk, plan, len(frames))):
        pictures.append(_empty_street(plan.seed, walk.camera, *_full_size(plan)).copy())
        pictures[-1][y : y + h, x : x + w] = frame
    return pictures


def _picture_name(walk: Walk, plan: Plan, number: int) -> str:
    _, person, camera, tracklet = _key(walk)
    return f"pictures/{person}/{camera}_{tracklet}_{number:06d}.jpg"


def _video_name(walk: Walk) -> str:
    return f"videos/{CAMERA_NAMES[walk.camera - 1]}.avi"


def _film(walks: Sequence[Walk], plan: Plan, root: Path) -> list[list[int]]:
    """Write the walks past one camera one after another into a video; the numbers of its frames for each walk."""
    path, drawn, count = root / _video_name(walks[0]), [], 0
    path.parent.mkdir(exist_ok=True)
    try:
        # Bit-exact and by one thread, the video differs between two runs only where the encoder does.
        with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as video:
            stream = video.add_stream("mpeg4", rate=_FRAMES_PER_SECOND, options={"qmin": "1", "qmax": "2"})
            (stream.height, stream.width), stream.pix_fmt = _full_size(plan), "yuv420p"
            stream.codec_context.thread_count = 1
            for walk in walks:
                pictures = _full_pictures(walk, plan)
                for picture in pictures:
                    video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                drawn.append(list(range(count, count + len(pictures))))
                count += len(pictures)
            video.mux(stream.encode(None))
    except av.FFmpegError as fault:
        # Not every one of these errors can be sent from one process to another.
        raise OSError(fault.errno, fault.strerror) from None
    return drawn


def _describe_manifest(
    root: Path, plan: Plan, walks: Sequence[Walk], drawn: Sequence[Sequence[str | int]], *, film: bool
) -> dict[str, int]:
    """Write the table of boxes: `drawn` holds names of pictures or, of a film, numbers of frames in its video."""
    with (root / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        place = ["video", "frame"] if film else ["frame"]
        writer.writerow(["split", "person", "camera", "tracklet", *place, "x", "y", "w", "h"])
        for walk, frames in zip(walks, drawn):
            head = (*_key(walk), _video_name(walk)) if film else _key(walk)
            writer.writerows((*head, frame, *box) for frame, box in zip(frames, _boxes(walk, plan, len(frames))))
    return count_walks(root, plan, walks, drawn)


# Junk is left out: data that users bring have no such class.
_OWN = {"lowest_pid": DISTRACTOR, "limits": TWO_TRACKLETS}
FOLDER = Layout(partial(draw_images, name=_folder_name), count_walks, **_OWN)
MANIFEST = Layout(
    partial(draw_images, name=_picture_name, pictures=_full_pictures), partial(_describe_manifest, film=False), **_OWN
)
VIDEO = Layout(_film, partial(_describe_manifest, film=True), by_camera=True, **_OWN)
