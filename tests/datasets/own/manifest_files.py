"""A list of pictures of the user's own, with or without boxes, and what is read from it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.own.manifest import parse_manifest
from datasets.tracklet import RawSplits
from utils.errors import InputError

HEADER = "split,person,camera,tracklet,frame"
BOXED = f"{HEADER},x,y,w,h"
GOOD = "train,p,c,t,pics/1.png,0,0,4,4"  # a row with a box
WIDTH, HEIGHT = 40, 30


def write_table(folder: Path, *rows: str, header: str = HEADER, name: str = "list.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes("".join(f"{row}\n" for row in (header, *rows)).encode())
    return path


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def write_pictures(folder: Path) -> Path:
    """Two pictures of noise, so that every crop of them is unique."""
    (folder / "pics").mkdir(parents=True)
    for seed in (1, 2):
        Image.fromarray(pixels(seed)).save(folder / "pics" / f"{seed}.png")
    return folder


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def parse_all(path: Path, cache: str = "", parse=parse_manifest) -> tuple[RawSplits, list]:
    faults = []
    return parse(path, on_fault=faults.append, cache_dir=cache), faults


def refusal(path: Path, cache: str = "", parse=parse_manifest) -> str:
    """The one line, after a look that nothing was written."""
    before = files(path.parent.parent)
    with pytest.raises(InputError) as caught:
        parse(path, cache_dir=cache)
    assert files(path.parent.parent) == before
    message = str(caught.value)
    assert "\n" not in message
    return message


def brief(raw: RawSplits, split: str) -> list[tuple[str, str, int]]:
    """(person, camera, frames)."""
    return [(raw.person(t.pid), raw.cameras[t.camid], len(t.frames)) for t in getattr(raw, split)]
