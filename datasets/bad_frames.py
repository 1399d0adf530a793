"""Which frames of a run could not be read and were replaced (DATASETS.ON_BAD_FRAME skip)."""

import logging
from collections.abc import Mapping

from utils.errors import InputError

logger = logging.getLogger(__name__)


class BadFrames:
    """The unreadable files that the loaders of a run have met, path -> what is wrong, in `files`.

    More than `limit` of them stop the run; 0: any number may be unreadable.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.files: dict[str, str] = {}

    def add(self, faults: Mapping[str, str]) -> None:
        """Note files, path -> one line naming it; warns of each new one, raises InputError over the limit."""
        for path, line in faults.items():
            if path in self.files:
                continue
            self.files[path] = line
            logger.warning("%s; the nearest frame of its tracklet takes its place (DATASETS.ON_BAD_FRAME skip)", line)
            if 0 < self.limit < len(self.files):
                raise InputError(
                    f"{len(self.files)} frames cannot be read, more than DATASETS.BAD_FRAME_LIMIT {self.limit}; "
                    "restore them, or leave them out (python -m datasets.check --fix-list, DATASETS.EXCLUDE)"
                )
