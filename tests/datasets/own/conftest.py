"""What the tests of lists of pictures share."""

from pathlib import Path

import pytest

from tests.datasets.own.manifest_files import write_pictures


@pytest.fixture
def folder(tmp_path) -> Path:
    """The pictures that a list names."""
    return write_pictures(tmp_path / "mine")


@pytest.fixture
def cache(tmp_path) -> str:
    """A folder for crops that does not exist yet."""
    return str(tmp_path / "new" / "cache")
