"""Writes all frames of a data set into one file, for disks that are slow at many small ones; see datasets.frames.store.

python -m datasets.pack [--config_file F] --out FILE [--overwrite | --check] [KEY VALUE ...]

The splits of the configured data set name the frames; DATASETS.PACK FILE makes a run read them from there.
Exit codes: 0 done, or no difference found; 1 differences; 2 wrong arguments, lists or files; 130 Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from configs import load_cfg
from configs.command import CommandParser, run_command, say
from datasets.build import check_split_key, configured_splits, official_name, split_numbers
from datasets.frames import FILES, FrameStore, frame_key, write_store
from datasets.regular import expanded
from datasets.sets.cache_folder import workshop
from datasets.tracklet import below
from utils.errors import InputError
from utils.progress import progress

_SHOWN = 10  # differences that are named


def main(argv: Sequence[str]) -> int:
    """Pack the data set of the config, or check its pack; returns the exit code."""

    def work() -> int:
        arguments = _parse(argv)
        cfg = load_cfg(arguments.config_file, arguments.opts)
        return _check(cfg, arguments.out) if arguments.check else _pack(cfg, arguments.out, arguments.overwrite)

    return run_command(work)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    about = "Write all frames of a data set into one file."
    parser = CommandParser(about, prog="python -m datasets.pack")
    parser.add_argument("--out", type=expanded, required=True, metavar="FILE", help="the file, for DATASETS.PACK")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--overwrite", action="store_true", help="replace FILE where it exists")
    choice.add_argument("--check", action="store_true", help="compare FILE with the data set's folder instead")
    return parser.parse(argv)


def _pack(cfg: CfgNode, out: Path, overwrite: bool) -> int:
    """Write the file whole or not at all."""
    if (out.exists() and not out.is_file()) or not out.parent.is_dir():
        raise InputError(f"--out {out} must name a file in a folder that exists, not a folder or device")
    if out.exists() and not overwrite:
        raise InputError(f"--out {out} exists; choose another name, or replace it with --overwrite")
    root, names = _frames(cfg)
    try:
        # The bar is closed also when a frame cannot be read.
        with workshop(out) as aside, progress(names, "packing", "frame") as bar:
            write_store(aside / out.name, (_frame(root, name) for name in bar))
            os.replace(aside / out.name, out)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror or error})") from None
    store = FrameStore(str(out))
    packed = f"{len(store):,} frames of {official_name(cfg.DATASETS.NAMES)} in {root}"
    say([f"{out}: {packed}, {out.stat().st_size / 2**20:,.1f} MiB, digest {store.digest}"])
    return 0


def _read(root: str, name: str, may_be_gone: bool = False) -> bytes | None:
    """The bytes of a frame; None for one that `may_be_gone` and is."""
    path = os.path.join(root, name)
    try:
        return FILES.content(path)
    except (OSError, ValueError) as error:
        if may_be_gone and isinstance(error, FileNotFoundError):
            return None
        # Not a MissingFileError: that OSError would be taken for a fault of the pack.
        raise InputError(f"frame {path} cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _frame(root: str, name: str) -> tuple[str, bytes]:
    """(name, bytes) of a frame for the pack."""
    content = _read(root, name)
    if not content:
        path = os.path.join(root, name)
        raise InputError(f"frame {path} holds no byte; python -m datasets.check names all such frames")
    return name, content


def _check(cfg: CfgNode, out: Path) -> int:
    """Compare each frame of the file with the folder, or with its own checksum where the folder lacks it."""
    store = FrameStore(str(out))
    root, names = _frames(cfg)
    not_in_pack = {frame_key(name): name for name in names}
    differences, compared = [], 0
    with progress(store.frames(), "checking", "frame", total=len(store)) as bar:
        for key, content in bar:
            name = not_in_pack.pop(key, key.decode("utf-8", "surrogateescape"))
            in_folder = _read(root, name, may_be_gone=True)
            compared += in_folder is not None
            if content is None:
                differences.append(f"{name}: its bytes in the pack were altered")
            elif in_folder is not None and content != in_folder:
                differences.append(f"{name}: the file in the folder holds other bytes")
    differences += [f"{name} is named by the lists, the pack lacks it" for name in not_in_pack.values()]
    gone = len(store) - compared
    rest = f", {gone:,} with their checksums alone because their files are gone" if gone else ""
    say([f"{out}: {compared:,} of {len(store):,} frames compared with {root}{rest}", *differences[:_SHOWN]])
    if differences:
        more = f" ({_SHOWN} named)" if len(differences) > _SHOWN else ""
        say([f"{len(differences):,} of the frames differ{more}; write the pack again, or restore the files"])
        return 1
    say(["no difference found"])
    return 0


def _frames(cfg: CfgNode) -> tuple[str, list[str]]:
    """The data set's folder, and the paths below it of the frames of all its splits, in the order of a pack."""
    check_split_key(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    names: set[str] = set()
    for number in split_numbers(cfg):
        cfg.DATASETS.SPLIT = number
        splits = configured_splits(cfg, validation=True)
        tracklets = splits.train + splits.query + splits.gallery + splits.val_query + splits.val_gallery
        names.update(below(splits.root, frame) for t in tracklets for frame in t.frames)
    return splits.root, sorted(names, key=frame_key)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
