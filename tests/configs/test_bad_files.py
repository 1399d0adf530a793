"""Config files and paths that no config has: one line that names the file or the key, soon and in little memory."""

import os
import time
from itertools import pairwise

import pytest

from configs import ConfigError, changed_keys, file_keys, get_cfg, load_cfg
from tests.conftest import one_error
from tests.refusals import refused
from utils.errors import InputError, MissingFileError

LAUGHS = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghij"))
SECTIONS = "a: &a {x: x}\n" + "".join(
    f"{b}: &{b} {{{', '.join(f'{n}: *{a}' for n in range(9))}}}\n" for a, b in pairwise("abcdefghij")
)
DEEP = {
    "3,000 sections": "MODEL: " + "{a: " * 3_000 + "1" + "}" * 3_000,
    "50,000 lists": "[" * 50_000 + "]" * 50_000,
    "30 sections": "".join(f"{' ' * depth}a:\n" for depth in range(30)),
    "a section that holds itself": "MODEL: &a\n  NAME: *a\n",
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_deep_files_are_refused(tmp_path, text):
    (tmp_path / "deep.yml").write_text(text)
    refused("deep.yml(, line [0-9]+)?: not valid YAML \\(nested too deeply\\)", load_cfg, tmp_path / "deep.yml")
    with pytest.raises(ValueError, match="not a config: .*nested too deeply"):
        changed_keys(text, get_cfg())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHS, r"\(more values than any config has\)"), (SECTIONS, r"\(more values than any config has\)"),
        ("SOLVER:\n  SEED: 1\n  SEED: 2\n", r", line 3: .*\(SEED comes twice\)"),
        ("SOLVER:\n  SEED: 1\nMODEL: {}\nSOLVER:\n", r", line 4: .*\(SOLVER comes twice\)"),
        ("SOLVER:\n\tSEED: 1\n", ", line 2: not valid YAML"), ("? [a]\n: b\n", ", line 1: not valid YAML"),
        ("SOLVER: {SEED: 1}\n---\nSOLVER: {SEED: 2}\n", ", line 2: not valid YAML"), ("a\0b", "not valid YAML"),
        (b"\x80\x02}q\x00.", r"\(not text\)"), (b"\xff\xfeM\x00O\x00", r"\(not text\)"),
        ("#" * 2**18 + "\n", "has more than 262,144 bytes"),
        ('"SOLVER\\nSEED": 1\n', r"unknown key SOLVER\\nSEED: "),
        ("SOLVER:\n  SEED: |\n    a\n    b\n", r": SOLVER.SEED must be a whole number, found 'a\\nb"),
    ],
)  # fmt: skip
def test_files_that_are_no_configs(tmp_path, content, message):
    path = tmp_path / "study.yml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.perf_counter()
    refused(f"study.yml.*{message}", load_cfg, path)
    assert time.perf_counter() - start < 5


def test_one_list_for_two_keys_is_no_bomb(tmp_path):
    (tmp_path / "study.yml").write_text("INPUT:\n  SIZE_TRAIN: &size [64, 32]\n  SIZE_TEST: *size\n")
    assert load_cfg(tmp_path / "study.yml").INPUT.SIZE_TEST == [64, 32]


def test_only_regular_files_are_opened(tmp_path):
    """A pipe that nobody writes to would be waited for, a device be read, without an end."""
    os.mkfifo(tmp_path / "pipe.yml")
    for path, message in (
        (tmp_path / "pipe.yml", "pipe.yml is no regular file"), ("/dev/zero", "/dev/zero is no regular file"),
        (tmp_path, "is a folder"), (tmp_path / "absent.yml", "absent.yml does not exist"),
        (tmp_path / "absent" / "study.yml", "study.yml does not exist"), ("a\0.yml", r"a\\x00.yml has a name that no"),
        (f"{'a' * 300}.yml", "a.yml cannot be opened \\(File name too long\\)"),
    ):  # fmt: skip
        for read in (load_cfg, file_keys):
            refused(message, read, path)


KEYS = (
    "MODEL.PRETRAIN_PATH", "DATASETS.ROOT_DIR", "DATASETS.EXCLUDE", "DATASETS.PACK", "DATASETS.CACHE_DIR",
    "TEST.WEIGHT", "OUTPUT_DIR",
)  # fmt: skip


@pytest.mark.parametrize("key", [*KEYS, "TEST.DATASETS"])
def test_paths_that_no_file_can_have(key):
    prefix = "MARS:" if key == "TEST.DATASETS" else ""
    for path, problem in (
        ("x/" + "a" * 256, "has a part longer than the 255 bytes"), ("ü" * 128, "has a part longer"),
        ("a/" * 2_001, "is longer than 4000 bytes"), ("'a\\x00b'", "holds a null character"),
        ("'a\\ud800b'", "holds a character that no file name can have"),
    ):  # fmt: skip
        quoted = path[0] == "'"
        value = f"['{prefix}{path[1:-1]}']" if quoted and prefix else prefix + path
        refused(f"^{key} {problem}", load_cfg, None, [key, value])
    longest = "a" * (255 - len(prefix))
    assert load_cfg(None, [key, prefix + longest])


@pytest.mark.parametrize("key", ["MODEL.NAME", "SOLVER.AMP", "SOLVER.SEED", "SOLVER.STEPS", "TEST.DATASETS", "A\nB"])
def test_a_value_with_a_line_break_gives_one_line_with_its_key(caplog, key):
    from processor.run import train_main

    line = one_error(caplog, train_main, [key, "a\nb", "DATASETS.ROOT_DIR", "."])
    assert key.replace("\n", "\\n") in line


def test_a_message_is_one_line_whoever_reads_it():
    for kind in (InputError, MissingFileError, ConfigError):
        error = kind("MODEL.NAME 'a\r\nb\u2028c\x1b[0m' is not known")
        assert str(error) == error.line == r"MODEL.NAME 'a\r\nb\u2028c\x1b[0m' is not known"
        again = kind(f"row 1: {error}")
        assert str(again) == f"row 1: {error}"  # escaped once
