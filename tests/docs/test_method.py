"""docs/method.md: every `file:name` is a function, class or method of that file, and every equation has its row."""

import ast
import re

import pytest

from tests.conftest import ROOT
from tests.docs.pages import PAGES

NAMES = sorted({found for text in PAGES.values() for found in re.findall(r"`([\w/]+\.py):([\w.]+)`", text)})


def defined(path: str, name: str) -> bool:
    """Whether the file defines the dotted name by def, class or an assignment."""
    scope = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for part in name.split("."):
        inner = [
            node
            for node in scope
            if getattr(node, "name", None) == part
            or any(getattr(target, "id", None) == part for target in getattr(node, "targets", ()))
        ]
        if not inner:
            return False
        scope = getattr(inner[0], "body", [])
    return True


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_the_name_is_defined_there(path, name):
    assert defined(path, name)


def test_a_name_that_is_not_there_is_noticed():
    assert len(NAMES) > 40 and not defined("model/tfclip.py", "TFCLIP.forwards")
    assert not defined("model/tfclip.py", "TFCLIPS") and not defined("loss/criterion.py", "forward")
    assert defined("loss/criterion.py", "LOSS_TERMS")


def test_every_equation_has_a_row():
    rows = re.findall(r"^\| \((\d+)(?:-(\d+))?\)", PAGES["docs/method.md"], re.M)
    numbers = {number for low, high in rows for number in range(int(low), int(high or low) + 1)}
    assert numbers == set(range(1, 15))


def test_every_module_of_the_network_and_of_the_loss_is_on_the_page():
    page = PAGES["docs/method.md"]
    files = [path.relative_to(ROOT).as_posix() for room in ("model", "loss") for path in (ROOT / room).glob("*.py")]
    builders = {f"{room}/{name}.py" for room in ("model", "loss") for name in ("__init__", "build", "compiled")}
    assert [path for path in files if path not in page and path not in builders] == []
