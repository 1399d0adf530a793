"""What a page holds, read back for the tests."""

import base64
import json
import re
from io import BytesIO
from pathlib import Path

from PIL import Image


def content(page: Path) -> dict:
    """The lists of the page, as page.js reads them."""
    text = page.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def strips(page: Path) -> list[Image.Image]:
    """The filmstrips of the page, decoded."""
    text = page.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="text/plain" id="strips">(.*?)</script>', text, re.S)
    return [Image.open(BytesIO(base64.b64decode(line, validate=True))) for line in found.split()]


def rows(page: Path) -> list[list[str]]:
    """The lists in the words of ranks.csv: query, person, AP, INP, first match, then name, person, distance of ten."""
    data = content(page)
    named = [(t[0], data["people"][t[1]]) for t in data["tracklets"]]
    found = []
    for tracklet, ap, inp, first, _, nearest in data["queries"]:
        scores = [f"{ap:.6f}", f"{inp:.6f}", str(first)] if first else ["", "", ""]
        found.append([*named[tracklet], *scores])
        for number, distance, _ in nearest:
            found[-1] += [*named[number], f"{distance:.6f}"]
    return found


def rows_of_csv(table: list[dict[str, str]]) -> list[list[str]]:
    """The same of ranks.csv."""
    found = []
    for row in table:
        found.append([row[name] for name in ("query", "pid", "AP", "INP", "first_match")])
        for place in range(1, 11):
            if row[f"top{place}"]:
                found[-1] += [row[f"top{place}"], row[f"top{place}_pid"], row[f"top{place}_distance"]]
    return found
