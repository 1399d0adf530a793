"""What README and docs name exists: pages, anchors, files, make targets, keys and their values."""

import re

import pytest
import yaml
from PIL import Image

from configs import get_cfg, load_cfg
from configs.load import flatten
from tests.conftest import ROOT
from tests.docs.pages import PAGES, anchors, blocks, links, prose

# docs/extending.md names files and keys that are still to be added; tests/test_extending.py adds them.
TEXT = "\n".join(text for page, text in PAGES.items() if page != "docs/extending.md")
LEAVES = dict(flatten(get_cfg()))
SECTIONS = {leaf[:end] for leaf in LEAVES for end, letter in enumerate(leaf) if letter == "."}
BESIDE = {"MODEL.MEMORY": ("MODEL.SSP.ENABLED", "False")}  # what a value of the key needs beside it
TAGS = {"bash", "csv", "diff", "python", "text", "yaml"}


def test_each_page_says_first_who_reads_it():
    for page, text in PAGES.items():
        title, _, first, *_ = text.splitlines()
        assert title.startswith("# ") and (page == "README.md" or first.startswith("For whoever ")), page


def test_the_readme_is_short_and_names_every_page():
    readme = PAGES["README.md"]
    assert len(readme.splitlines()) <= 200
    assert [page for page in PAGES if page != "README.md" and f"]({page}" not in readme] == []


def test_nothing_is_left_to_fill_in():
    assert re.findall(r"TO FILL: \w+|@@", TEXT) == []


@pytest.mark.parametrize(("page", "target"), links())
def test_every_link_leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    assert file.is_file()
    assert not anchor or anchor in anchors(file.read_text(encoding="utf-8"))


def test_links_and_anchors_are_found():
    assert len(links()) > 40
    assert anchors("# A `key`: 1, 2\n```\n# none\n```\n## SLURM, with requeue") == {"a-key-1-2", "slurm-with-requeue"}


def test_pictures_are_small():
    for page, target in links():
        if target.endswith(".png"):
            path = (ROOT / page).parent / target
            assert path.stat().st_size < 200_000
            with Image.open(path) as picture:
                picture.verify()


def test_every_key_is_a_key():
    named = set(re.findall(r"\b(?:MODEL|INPUT|DATASETS|DATALOADER|SOLVER|TEST)\.[A-Z0-9_.]*[A-Z0-9]", TEXT))
    assert len(named) > 60 and sorted(named - set(LEAVES) - SECTIONS) == []


def test_keys_with_values_load():
    values = r"`((?:MODEL|INPUT|SOLVER|TEST)\.[A-Z0-9_.]*[A-Z0-9]) ([A-Za-z0-9]+)`"
    pairs = set(re.findall(values, TEXT))
    assert len(pairs) >= 15
    for key, value in pairs:
        before = LEAVES[key]
        after = dict(flatten(load_cfg(opts=[key, value, *BESIDE.get(key, ())])))[key]
        assert after != before or str(before).lower() == value.lower(), key


@pytest.mark.parametrize(
    "pattern",
    [r"`((?:[a-z0-9_]+/)+[a-z0-9_]+\.(?:py|yml))[:`]", r"python ([a-z]+-main\.py)", r"--config_file ([\w./-]+\.yml)"],
)
def test_every_file_is_there(pattern):
    names = set(re.findall(pattern, TEXT))
    assert names and [n for n in names if not n.startswith("runs/") and not (ROOT / n).exists()] == []


def test_the_readme_names_every_make_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split()) - {"environment"}
    assert set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)?)\b", PAGES["README.md"])) == targets
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_ci_calls_the_test_commands_of_the_readme():
    assert re.findall(r"^make (.+)$", (ROOT / ".ci" / "run").read_text(), re.M) == ["test", "test-slow"]


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_every_block_says_what_it_is(block, tmp_path):
    """text: what is printed or lies in a folder; diff: steps that tests/test_extending.py takes; others are read here
    and in test_commands.py."""
    assert block.tag in TAGS
    if block.tag == "yaml":
        file = tmp_path / "part.yml"
        file.write_text(block.text)
        assert dict(flatten(load_cfg(file))) and yaml.safe_load(block.text)
    if block.tag == "csv":
        columns, row = (line.split(",") for line in block.text.splitlines())
        assert len(row) == len(columns) and {"split", "person", "tracklet", "frame"} <= set(columns)
    if block.tag == "diff":
        assert block.page == "docs/extending.md"
    if block.tag == "text":
        assert re.findall(r"^\s*(?:\w+=\S+ )*(?:python|make|torchrun|pip) \S", block.text, re.M) == []


def test_no_command_stands_outside_of_a_fence():
    """Nothing would try it there."""
    indented = re.compile(r"^(?: {4,}|\t)(?:\w+=\S+ )*(?:python|make|torchrun|pip|source) \S.*", re.M)
    assert [(page, line) for page, text in PAGES.items() for line in indented.findall(prose(text))] == []
    assert indented.findall("\n    python train-main.py\n  python is meant\n")


def test_the_citation_names_paper_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert citation["version"] == version
    assert [author["family-names"] for author in paper["authors"]] == ["Yu", "Liu", "Wang", "Zhang", "Lu"]
    assert paper["year"] == 2024 and paper["title"].split(":")[1].split(" for ")[0].strip() in PAGES["README.md"]


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert re.search(r"^## \[(.+?)\]", text, re.M)[1] == version
    titles = set(re.findall(r"^### (\w+)$", text, re.M))
    assert titles and titles <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
