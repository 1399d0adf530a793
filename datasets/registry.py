"""All data sets by name; a new one is a file that holds its `DataSet` record, and a line here."""

import os
import re
from collections.abc import Sequence

from datasets.own import folder, manifest
from datasets.sets import ilidsvid, lsvid, market1501, mars, msmt17
from datasets.tracklet import DataSet
from utils.errors import InputError

DATA_SETS = (
    mars.MARS,
    lsvid.LSVID,
    ilidsvid.ILIDSVID,
    market1501.MARKET1501,
    msmt17.MSMT17,
    folder.FOLDER,
    manifest.MANIFEST,
    manifest.VIDEO,
)


def find_dataset(name: str) -> DataSet:
    """The data set of this name; case and hyphens do not matter. Raises InputError for one that is not known."""
    for dataset in DATA_SETS:
        if plain_name(name) == plain_name(dataset.name):
            return dataset
    known = ", ".join(dataset.name for dataset in DATA_SETS)
    raise InputError(f"DATASETS.NAMES '{name}' is not known; it must be one of {known}")


def plain_name(name: str) -> str:
    """The name without hyphens and in capitals, a short one in full: iLIDS-VID and iLIDS -> ILIDSVID."""
    plain = _letters(name)
    full = {_letters(dataset.short_name): _letters(dataset.name) for dataset in DATA_SETS if dataset.short_name}
    return full.get(plain, plain)


def official_name(name: str) -> str:
    """The name as the data set's authors write it: lsvid -> LS-VID; raises InputError for one that is not known."""
    return find_dataset(name).name


def parse_dataset_list(entries: Sequence[str]) -> list[tuple[str, str]]:
    """'NAME:folder' texts of TEST.DATASETS -> (official name, folder); raises InputError for an unknown name."""
    pairs = []
    for entry in entries:
        name, root = entry.split(":", 1)
        try:
            pairs.append((official_name(name.strip()), os.path.expanduser(root.strip())))
        except InputError as error:
            raise InputError(f"TEST.DATASETS '{entry}': {error.line.removeprefix('DATASETS.NAMES ')}") from None
    return pairs


def _letters(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).upper()
