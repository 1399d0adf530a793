"""docs/config.md is what configs.reference prints, and that is every key with its meaning."""

import re
import subprocess
import sys

from configs import get_cfg
from configs.check import accepted_values
from configs.load import flatten
from configs.reference import main, page
from tests.conftest import ROOT, one_error

PAGE = ROOT / "docs" / "config.md"


def test_the_page_is_what_the_command_prints():
    done = subprocess.run([sys.executable, "-m", "configs.reference"], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == PAGE.read_text(encoding="utf-8").splitlines(), (
        "run: python -m configs.reference > docs/config.md"
    )


def test_every_key_has_a_row_with_default_and_meaning():
    rows = re.findall(r"^\| `([A-Z0-9_.]+)` \| `(.*?)` \| .*? \| (.+) \|$", page(), re.M)
    assert sorted(key for key, _, _ in rows) == sorted(key for key, _ in flatten(get_cfg()))
    assert [key for key, _, meaning in rows if len(meaning) < 5] == []
    assert {key: default for key, default, _ in rows}["MODEL.SIE_COE"] == "1.0"


def test_every_number_choice_and_switch_says_what_it_takes():
    leaves = dict(flatten(get_cfg()))
    bare = {key for key, default in leaves.items() if not accepted_values(key) and not isinstance(default, str)}
    assert bare == {"SOLVER.STEPS", "TEST.DATASETS"}
    assert accepted_values("TEST.AP") == "`step`, `trapezoid`"
    assert accepted_values("INPUT.PIXEL_STD") == "each 0.001 to 1"


def test_a_mistyped_option_is_one_line_without_torch(caplog):
    assert "--outt" in one_error(caplog, main, ["--outt"])
    code = "import sys, configs.reference; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60).stdout == b"False\n"
