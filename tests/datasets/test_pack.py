"""The command that packs: what it writes, that runs read it, which arguments are errors, no half-written file."""

import multiprocessing
import resource
import shutil
import sys
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from configs import load_cfg
from datasets import (
    build_memory_loader,
    build_test_loader,
    build_train_loader,
    check_frames_present,
    configured_splits,
    pack,
)
from datasets.frames.store import FrameStore, frame_key, frame_source, write_store
from datasets.synthetic.command import write_set
from processor.colour_baseline import main as colour_main
from processor.run import train_main
from tests.conftest import tiny_options
from utils.errors import InputError


def argv(root: Path, out: Path, *flags: str, **overrides: str) -> list[str]:
    keys = {"DATASETS__ROOT_DIR": root, "OUTPUT_DIR": out.parent / "run"} | overrides
    return tiny_options("--out", str(out), *flags, **keys)


def config(root: Path, packed: Path | str = "", **overrides: object):
    return load_cfg(None, tiny_options(DATASETS__ROOT_DIR=root, DATASETS__PACK=packed, **overrides))


@pytest.fixture
def mars(tiny_mars, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_mars, tmp_path / "mars"))


@pytest.fixture
def packed(mars, tmp_path) -> Path:
    assert pack.main(argv(mars, tmp_path / "mars.pack")) == 0
    return tmp_path / "mars.pack"


def named(root: Path) -> set[str]:
    splits = configured_splits(config(root))
    tracklets = splits.train + splits.query + splits.gallery
    return {Path(frame).relative_to(root).as_posix() for t in tracklets for frame in t.frames}


def test_the_file_holds_the_bytes_of_exactly_the_frames_that_the_splits_name(mars, packed, capsys):
    names = named(mars)
    store = FrameStore(str(packed))
    assert {key.decode(): bytes(c) for key, c in store.frames()} == {name: (mars / name).read_bytes() for name in names}
    assert pack.main(argv(mars, packed, "--overwrite")) == 0
    out = capsys.readouterr().out
    assert f"{len(names)} frames of MARS in {mars}" in out and store.digest in out
    assert sorted(path.name for path in packed.parent.iterdir()) == ["mars", "mars.pack"]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_every_loader_gives_the_same_from_the_pack_when_only_the_lists_are_left(mars, packed, workers):
    def batches(cfg):
        splits = configured_splits(cfg)
        check_frames_present(splits)
        source = frame_source(splits.pack, splits.root)
        for loader in (
            build_train_loader(cfg, splits),
            build_memory_loader(cfg, splits, splits.train),
            build_test_loader(cfg, splits.query + splits.gallery, "dense", source),
        ):
            yield from (batch.clips.clone() for batch in loader)

    files = list(batches(config(mars)))
    for folder in ("bbox_train", "bbox_test"):
        shutil.rmtree(mars / folder)
    from_pack = list(batches(config(mars, packed, DATALOADER__NUM_WORKERS=workers)))
    assert len(files) == len(from_pack) > 3
    assert all(torch.equal(a, b) for a, b in zip(files, from_pack))


def test_the_colour_baseline_reads_the_pack(mars, packed, tmp_path, capsys):
    keys = tiny_options(DATASETS__ROOT_DIR=mars, OUTPUT_DIR=tmp_path / "run")
    assert colour_main(keys) == 0
    before = capsys.readouterr().out
    shutil.rmtree(mars / "bbox_test")
    assert colour_main([*keys, "DATASETS.PACK", str(packed)]) == 0
    after = capsys.readouterr().out
    lines = [[line for line in text.splitlines() if "stripes" in line] for text in (before, after)]
    assert lines[0] == lines[1] != []


def test_a_run_trains_tests_and_draws_its_contact_sheet_from_the_pack_alone(mars, packed, tmp_path):
    for folder in ("bbox_train", "bbox_test"):
        shutil.rmtree(mars / folder)
    keys = {"DATASETS__PACK": packed, "SOLVER__MAX_EPOCHS": 1, "TEST__CONTACT_SHEET": 2}
    assert train_main(tiny_options(DATASETS__ROOT_DIR=mars, OUTPUT_DIR=tmp_path / "run", **keys)) == 0
    assert (tmp_path / "run" / "contact_sheet.png").is_file()


def test_a_pack_belongs_to_the_set_of_the_config_alone(mars, packed):
    cfg = config(mars, packed)
    assert configured_splits(cfg).pack == str(packed)
    assert configured_splits(cfg, "MARS", str(mars)).pack == ""


def test_a_pack_of_another_data_set_stops_a_run_before_it_starts(mars, packed, tmp_path):
    other = tmp_path / "other.pack"
    write_store(other, [("a.jpg", b"1")])
    with pytest.raises(InputError, match="other.pack does not hold frame bbox_train/.*data set"):
        check_frames_present(configured_splits(config(mars, other)))
    with pytest.raises(InputError, match="pack .*none.pack does not exist"):
        check_frames_present(configured_splits(config(mars, tmp_path / "none.pack")))


def test_an_existing_file_stays_unless_it_is_to_be_replaced(mars, tmp_path, capsys):
    out = tmp_path / "mars.pack"
    out.write_text("mine")
    assert pack.main(argv(mars, out)) == 2
    assert capsys.readouterr().err.strip() == (
        f"error: --out {out} exists; choose another name, or replace it with --overwrite"
    )
    assert out.read_text() == "mine"
    assert pack.main(argv(mars, out, "--overwrite")) == 0 and len(FrameStore(str(out))) == len(named(mars))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mars", "mars.pack"]


def test_arguments_that_make_no_sense_end_in_one_line(mars, tmp_path, capsys):
    for arguments, expected in (
        (argv(mars, tmp_path / "nowhere" / "a.pack"), "must name a file in a folder that exists"),
        (argv(mars, mars), "not a folder or device"),
        (argv(mars, Path("/dev/full"), "--overwrite"), "not a folder or device"),
        (argv(mars, tmp_path / "a.pack", "--check", "--overwrite"), "not allowed with argument"),
        (argv(mars, tmp_path / "a.pack")[2:], "required: --out"),
        (argv(mars, tmp_path / "a.pack", DATASETS__SPLIT="all"), "MARS has one split"),
    ):
        assert pack.main(arguments) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and "\n" not in error and expected in error
        assert not (tmp_path / "a.pack").exists() and Path("/dev/full").is_char_device()


@pytest.mark.parametrize("fault", ["missing", "empty"])
def test_a_frame_that_cannot_be_packed_is_named_and_nothing_is_left(mars, tmp_path, capsys, fault):
    frame = mars / sorted(named(mars))[5]
    frame.unlink() if fault == "missing" else frame.write_bytes(b"")
    assert pack.main(argv(mars, tmp_path / "a.pack")) == 2
    expected = "cannot be read (No such file or directory)" if fault == "missing" else "holds no byte"
    assert f"error: frame {frame} {expected}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mars"]


@pytest.mark.parametrize("existing", [False, True])
def test_ctrl_c_leaves_what_was_there(mars, tmp_path, monkeypatch, capsys, existing):
    out = tmp_path / "a.pack"
    if existing:
        out.write_text("mine")
    last, read = sorted(named(mars), key=frame_key)[-1], pack._read

    def stop(root, name):
        if name == last:
            raise KeyboardInterrupt
        return read(root, name)

    monkeypatch.setattr(pack, "_read", stop)
    assert pack.main(argv(mars, out, "--overwrite")) == 130
    assert "stopped by Ctrl-C" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == (["a.pack", "mars"] if existing else ["mars"])
    assert not existing or out.read_text() == "mine"


def pack_into_little_room(*arguments: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    sys.exit(pack.main(arguments))


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing(mars, tmp_path, capfd):
    arguments = argv(mars, tmp_path / "a.pack")
    process = multiprocessing.get_context("fork").Process(target=pack_into_little_room, args=arguments)
    process.start()
    process.join()
    error = capfd.readouterr().err
    assert process.exitcode == 2 and "Traceback" not in error
    assert f"error: {tmp_path / 'a.pack'} cannot be written (" in error and "is the disk full?)" in error
    assert [path.name for path in tmp_path.iterdir()] == ["mars"]


def check(mars: Path, packed: Path, capsys) -> tuple[int, str]:
    capsys.readouterr()
    code = pack.main(argv(mars, packed, "--check"))
    return code, capsys.readouterr().out


def test_the_check_compares_every_frame_and_says_which_differ(mars, packed, capsys, tmp_path):
    names = sorted(named(mars))
    code, out = check(mars, packed, capsys)
    assert code == 0 and f"{len(names)} of {len(names)} frames compared with {mars}\nno difference found" in out
    (mars / names[0]).unlink()
    code, out = check(mars, packed, capsys)
    assert code == 0 and f"{len(names) - 1} of {len(names)} frames compared" in out
    assert "1 with their checksums alone because their files are gone" in out
    buffer = BytesIO()
    Image.new("RGB", (16, 32), (1, 2, 3)).save(buffer, "JPEG")
    (mars / names[1]).write_bytes(buffer.getvalue())
    content = bytearray(packed.read_bytes())
    content[content.index((mars / names[2]).read_bytes())] ^= 1
    packed.write_bytes(content)
    code, out = check(mars, packed, capsys)
    assert code == 1 and f"{names[1]}: the file in the folder holds other bytes" in out
    assert f"{names[2]}: its bytes in the pack were altered" in out and "2 of the frames differ" in out
    (mars / names[3]).write_bytes(b"")  # as a crash leaves a file
    code, out = check(mars, packed, capsys)
    assert code == 1 and f"{names[3]}: the file in the folder holds other bytes" in out and "3 of the frames" in out
    folder = (mars / names[4]).parent
    folder.rename(tmp_path / "elsewhere")
    folder.write_text("a file where a folder was")
    assert pack.main(argv(mars, packed, "--check")) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_the_check_names_frames_of_the_lists_that_the_pack_lacks_and_a_broken_pack(mars, packed, capsys, tmp_path):
    rest = [(key.decode(), bytes(content)) for key, content in FrameStore(str(packed)).frames()]
    write_store(tmp_path / "less.pack", rest[1:])
    code, out = check(mars, tmp_path / "less.pack", capsys)
    assert code == 1 and f"{rest[0][0]} is named by the lists, the pack lacks it" in out
    packed.write_bytes(packed.read_bytes()[:-1])
    assert pack.main(argv(mars, packed, "--check")) == 2
    assert "was cut or altered" in capsys.readouterr().err


def test_frames_of_the_validation_part_are_packed_and_looked_for_before_a_run(tmp_path, capsys):
    """LS-VID brings a validation part of its own, which a run with SOLVER.SELECT_BY val reads."""
    root = tmp_path / "lsvid"
    write_set(root, "lsvid", train_ids=4, test_ids=3, cameras=2, tracklets=2, frames=(3, 5), size=(32, 16), workers=0)
    keys = {"DATASETS__NAMES": "LS-VID", "SOLVER__SELECT_BY": "val"}
    with_val, without = tmp_path / "val.pack", tmp_path / "test.pack"
    assert pack.main(argv(root, with_val, **keys)) == 0
    assert pack.main(argv(root, without, DATASETS__NAMES="LS-VID")) == 0
    splits = configured_splits(config(root, with_val, **keys), validation=True)
    frames = {frame for t in splits.val_query + splits.val_gallery for frame in t.frames}
    store = FrameStore(str(with_val), str(root))
    assert frames and all(store.content(frame) for frame in frames)
    check_frames_present(splits)
    with pytest.raises(InputError, match="does not hold frame .*pack"):
        check_frames_present(configured_splits(config(root, without, **keys), validation=True))
