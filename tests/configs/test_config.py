"""Config: defaults, what YAML and the command line do to values, ranges and contradictions refused in one line."""

import re
from pathlib import Path

import pytest

from configs import ConfigError, changed_keys, get_cfg, load_cfg
from configs.command import DEFAULT_CONFIG
from configs.legacy import RENAMED
from configs.load import flatten

SAME_IN_FILE_AND_COMMAND_LINE = [
    ("OUTPUT_DIR", "2024", "2024"), ("OUTPUT_DIR", "2024-05-01", "2024-05-01"), ("OUTPUT_DIR", "1.10", "1.10"),
    ("OUTPUT_DIR", "2024_05_01", "2024_05_01"), ("OUTPUT_DIR", "'quoted'", "quoted"), ("SOLVER.BASE_LR", "5", 5.0),
    ("SOLVER.BASE_LR", "5e-6", 5e-6), ("SOLVER.BASE_LR", "5.0e-6", 5e-6), ("SOLVER.SEED", "16.0", 16),
    ("MODEL.STRIDE_SIZE", "12", [12, 12]), ("MODEL.STRIDE_SIZE", "(12, 16)", [12, 16]),
    ("SOLVER.STEPS", "40", [40]), ("SOLVER.STEPS", "[]", []), ("SOLVER.STEPS", "[40, 60]", [40, 60]),
    ("INPUT.PIXEL_STD", "[1, 1, 1]", [1.0, 1.0, 1.0]), ("SOLVER.AMP", "off", "off"), ("TEST.FEAT_NORM", "'yes'", True),
    ("TEST.FEAT_NORM", "'no'", False), ("TEST.RE_RANKING", "on", True), ("TEST.RE_RANKING", "True", True),
    ("TEST.FEAT_NORM", "false", False), ("TEST.GALLERY_INCLUDES_QUERY", "False", "False"),
    ("DATASETS.NAMES", "('MARS')", "MARS"), ("TEST.WEIGHT", "''", ""), ("DATASETS.SPLIT", "3", "3"),
    ("DATASETS.SPLIT", "'3'", "3"), ("DATASETS.SPLIT", '"3"', "3"), ("DATASETS.SPLIT", "all", "all"),
]  # fmt: skip
WRONG_KIND = (
    "SOLVER.SEED 1.5|SOLVER.SEED many|SOLVER.SEED True|SOLVER.BASE_LR small|TEST.RE_RANKING maybe|TEST.RE_RANKING 1|"
    "SOLVER.STEPS [30,half]|SOLVER.STEPS [30.5]|MODEL.STRIDE_SIZE wide"
)
UNKNOWN = [
    ("SOLVER.MAX_EPOCH", "did you mean SOLVER.MAX_EPOCHS"), ("solver.base_lr", "did you mean SOLVER.BASE_LR"),
    ("OUTPUT", "did you mean OUTPUT_DIR"), ("QQQQ", "see configs/defaults.py"), ("SOLVER", "is a section"),
    ("SOLVER.STAGE2.BASE_LR", "called SOLVER.BASE_LR here"), ("MODEL.NECK", "the BNNeck is always there"),
    ("SOLVER.STAGE2.WARMUP_ITERS", "called SOLVER.WARMUP_EPOCHS here"), ("MODEL.DEVICE", "CUDA_VISIBLE_DEVICES"),
    ("MODEL.I2T_LOSS_WEIGHT", "called MODEL.V2M_LOSS_WEIGHT here"), ("SOLVER.STAGE1.BASE_LR", "one training stage"),
    ("TEST.IMS_PER_BATCH", "called TEST.FRAMES_PER_BATCH here"), ("SOLVER.STAGE2.CHECKPOINT_PERIOD", "it is gone"),
]  # fmt: skip
RANGES = [  # the smallest and the largest value of each number
    *((f"MODEL.ENCODER.{size}", 0, most) for size, most in
      (("WIDTH", 8192), ("DEPTH", 256), ("HEADS", 512), ("PATCH", 1024), ("EMBED", 8192), ("TEXT_DEPTH", 256))),
    *((f"MODEL.{term}_LOSS_WEIGHT", 0, 1000) for term in ("ID", "TRIPLET", "V2M")), ("MODEL.SIE_COE", 0, 1000),
    ("MODEL.SSP.LAYERS", 1, 64), ("INPUT.SEQ_LEN", 1, 1024), ("INPUT.PADDING", 0, 4095), ("INPUT.PROB", 0, 1),
    ("INPUT.RE_PROB", 0, 1), ("DATASETS.VAL_FRACTION", 0, 1), ("DATALOADER.NUM_WORKERS", 0, 1024),
    ("DATALOADER.NUM_INSTANCE", 2, 4096), ("SOLVER.SEED", 0, 2**64 - 1), ("SOLVER.IMS_PER_BATCH", 1, 65536),
    ("SOLVER.BASE_LR", 1e-12, 1e30), ("SOLVER.WARMUP_FACTOR", 0, 1), ("SOLVER.GAMMA", 0, 1),
    *((f"SOLVER.{key}", 0, 1000) for key in ("BIAS_LR_FACTOR", "MARGIN")),
    *((f"SOLVER.{key}", 0, 100) for key in ("WEIGHT_DECAY", "WEIGHT_DECAY_BIAS", "TEXT.WEIGHT_DECAY")),
    ("SOLVER.MAX_EPOCHS", 1, 10**6), ("SOLVER.WARMUP_EPOCHS", 0, 10**6), ("SOLVER.ACCUM_STEPS", 1, 65536),
    ("SOLVER.LOG_PERIOD", 1, 10**9), ("SOLVER.EVAL_PERIOD", 1, 10**9), ("SOLVER.TEXT.MAX_EPOCHS", 1, 10**6),
    ("SOLVER.TEXT.WARMUP_EPOCHS", 0, 10**6), ("SOLVER.TEXT.BATCH_SIZE", 1, 10**6), ("SOLVER.TEXT.BASE_LR", 1e-12, 10),
    ("SOLVER.TEXT.MIN_LR", 0, 10), ("SOLVER.TEXT.WARMUP_LR", 0, 10), ("TEST.FRAMES_PER_BATCH", 1, 65536),
    ("TEST.RE_RANKING_K1", 1, 10000), ("TEST.RE_RANKING_K2", 1, 10000), ("TEST.RE_RANKING_LAMBDA", 0, 1),
    ("TEST.CONTACT_SHEET", 0, 2000),
]  # fmt: skip
# Beside which the largest value contradicts no other key.
NEIGHBOURS = {
    "DATALOADER.NUM_INSTANCE": "SOLVER.IMS_PER_BATCH 8192", "SOLVER.ACCUM_STEPS": "SOLVER.IMS_PER_BATCH 65536",
    "SOLVER.IMS_PER_BATCH": "INPUT.SEQ_LEN 1", "MODEL.ENCODER.WIDTH": "MODEL.ENCODER.DEPTH 2",
    "INPUT.PADDING": "INPUT.SIZE_TRAIN 4096 INPUT.SIZE_TEST 4096 MODEL.STRIDE_SIZE 32 TEST.FRAMES_PER_BATCH 8",
    "INPUT.SEQ_LEN": "TEST.FRAMES_PER_BATCH 2048",
    "MODEL.ENCODER.PATCH": "INPUT.SIZE_TRAIN 1024 INPUT.SIZE_TEST 1024",
    "MODEL.ENCODER.EMBED": "MODEL.ENCODER.WIDTH 64", "MODEL.ENCODER.DEPTH": "MODEL.ENCODER.WIDTH 64",
    "SOLVER.TEXT.MIN_LR": "SOLVER.TEXT.BASE_LR 10",
}  # fmt: skip
WORDS = {
    "MODEL.PRETRAIN_CHOICE": "openai timm none", "INPUT.PIXEL_STATISTICS": "auto keys weights",
    "MODEL.SSP.VARIANT": "full simple", "SOLVER.AMP": "auto bf16 fp16 off",
    "TEST.SAMPLING": "dense first", "TEST.EVAL_SAMPLING": "dense first", "TEST.NECK_FEAT": "before after",
    "TEST.GALLERY_INCLUDES_QUERY": "auto True False", "INPUT.INTERPOLATION": "bilinear bicubic",
    "INPUT.RE_MODE": "colour pixel",
}  # fmt: skip
TIMM, OWN_MEAN = "MODEL.PRETRAIN_CHOICE timm ", "INPUT.PIXEL_MEAN [0.5,0.5,0.5] "
NONE = "MODEL.PRETRAIN_CHOICE none "
OBLONG = "INPUT.SIZE_TRAIN (32,12) INPUT.SIZE_TEST (32,12) MODEL.STRIDE_SIZE 12 "
CONTRADICTIONS = [  # refused options, start of the message, options nearby that are accepted
    *((f"{key} {size}", f"{key} must be two numbers", "MODEL.STRIDE_SIZE 12")
      for key in ("INPUT.SIZE_TRAIN", "INPUT.SIZE_TEST", "MODEL.STRIDE_SIZE")
      for size in ("[256]", "[256,128,3]", "[]")),
    *((f"{key} {size}", f"{key} must lie between 1 and {most}, found [", "MODEL.STRIDE_SIZE 12")
      for key, most in (("INPUT.SIZE_TRAIN", 4096), ("INPUT.SIZE_TEST", 4096), ("MODEL.STRIDE_SIZE", 1024))
      for size in ("[0,16]", "[16,-1]", "[16,1000000]")),
    ("MODEL.STRIDE_SIZE 129", "MODEL.STRIDE_SIZE [129, 129] is larger than INPUT.SIZE_TRAIN [256, 128]",
     "MODEL.STRIDE_SIZE 128"),
    ("MODEL.STRIDE_SIZE 1", "INPUT.SIZE_TRAIN [256, 128] has more than 16384 patches at MODEL.STRIDE_SIZE [1, 1]",
     "MODEL.STRIDE_SIZE [1,2]"),
    ("INPUT.SIZE_TRAIN 4096 INPUT.SIZE_TEST 4096 MODEL.STRIDE_SIZE 32", "TEST.FRAMES_PER_BATCH 512: a batch of INPUT."
     "SIZE_TRAIN [4096, 4096] would have 24 GiB of pixels; lower one", "INPUT.SIZE_TRAIN 512 INPUT.SIZE_TEST 512"),
    ("SOLVER.IMS_PER_BATCH 1024 INPUT.SEQ_LEN 512", "SOLVER.IMS_PER_BATCH 1024 of INPUT.SEQ_LEN 512: a batch of",
     "SOLVER.IMS_PER_BATCH 1024"),
    (NONE + "MODEL.ENCODER.WIDTH 8192 MODEL.ENCODER.DEPTH 256", "MODEL.ENCODER {'WIDTH': 8192, 'DEPTH': 256, 'HEADS': 0"
     ", 'PATCH': 0, 'EMBED': 0, 'TEXT_DEPTH': 0} with MODEL.SSP.LAYERS 2 has about 206 billion weights; the most is 3",
     NONE + "MODEL.ENCODER.WIDTH 1664 MODEL.ENCODER.DEPTH 48 MODEL.ENCODER.EMBED 1280"),
    *((f"DATASETS.TRAIN_ITEMS {items}", "DATASETS.TRAIN_ITEMS must be auto, tracklets", "DATASETS.TRAIN_ITEMS auto")
      for items in ("chunks", "chunks9999999999")),
    ("INPUT.SIZE_TEST [256,192]", "INPUT.SIZE_TEST [256, 192] must equal INPUT.SIZE_TRAIN [256, 128]", OBLONG),
    ("INPUT.PADDING 128", "INPUT.PADDING 128 must be less than the sides of INPUT.SIZE_TRAIN", "INPUT.PADDING 127"),
    ("INPUT.RE_MODE pixel INPUT.RE_LEGACY True", "INPUT.RE_LEGACY True belongs to INPUT.RE_MODE colour, found pixel",
     "INPUT.RE_MODE colour INPUT.RE_LEGACY True"),
    ("INPUT.PIXEL_MEAN [0.5,0.5]", "INPUT.PIXEL_MEAN must be three numbers", "INPUT.PIXEL_MEAN (0,0,0)"),
    ("INPUT.PIXEL_STD 0.5", "INPUT.PIXEL_STD must be three numbers", "INPUT.PIXEL_STD (1,1,1)"),
    *((f"INPUT.PIXEL_STD [0.2,{std},0.2]", "INPUT.PIXEL_STD must lie between 0.001 and 1, found [0.2, ",
       "INPUT.PIXEL_STD (0.2,0.1,0.2)") for std in ("0", "1e-40", "127.5")),
    ("INPUT.PIXEL_MEAN 127.5", "INPUT.PIXEL_MEAN must lie between 0 and 1", "INPUT.PIXEL_MEAN (0,0,1)"),
    ("INPUT.PIXEL_MEAN [0.5,0.5,1e999]", "INPUT.PIXEL_MEAN ", "INPUT.PIXEL_MEAN [0.5,0.5,1]"),
    ("INPUT.PIXEL_STD [0.5,0.5,1e999]", "INPUT.PIXEL_STD ", "INPUT.PIXEL_STD [0.5,0.5,1]"),
    *((f"INPUT.PIXEL_STATISTICS {statistics} {choice} INPUT.PIXEL_{key} [0.5,0.5,0.5]",
       f"INPUT.PIXEL_{key} [0.5, 0.5, 0.5] is not used: the pixel statistics of the weights are in force; set "
       "INPUT.PIXEL_STATISTICS keys", f"INPUT.PIXEL_STATISTICS keys {choice} INPUT.PIXEL_{key} [0.5,0.5,0.5]")
      for statistics, choice in (("auto", TIMM), ("weights", ""), ("weights", NONE)) for key in ("MEAN", "STD")),
    (TIMM + OWN_MEAN, "INPUT.PIXEL_MEAN [0.5, 0.5, 0.5] is not used", OWN_MEAN),
    (TIMM + "MODEL.MEMORY text", "MODEL.MEMORY text needs MODEL.PRETRAIN_CHOICE 'openai' or 'none'", TIMM),
    (TIMM + "MODEL.ENCODER.WIDTH 64", "MODEL.ENCODER.WIDTH needs MODEL.PRETRAIN_CHOICE 'none'",
     TIMM + "MODEL.PRETRAIN_PATH x.pt"),
    ("MODEL.SIE_COE 1e999", "MODEL.SIE_COE ", "MODEL.SIE_COE 3"),
    ("SOLVER.SEED 18446744073709551616", "SOLVER.SEED ", "SOLVER.SEED 18446744073709551615"),
    ("TEST.FRAMES_PER_BATCH 7", "TEST.FRAMES_PER_BATCH 7 must hold a clip of INPUT.SEQ_LEN 8", "INPUT.SEQ_LEN 512"),
    ("SOLVER.IMS_PER_BATCH 18", "SOLVER.IMS_PER_BATCH 18 must be divisible by DATALOADER.NUM_INSTANCE 4",
     "SOLVER.IMS_PER_BATCH 18 DATALOADER.NUM_INSTANCE 3"),
    ("SOLVER.IMS_PER_BATCH 4", "SOLVER.IMS_PER_BATCH 4 with DATALOADER.NUM_INSTANCE 4 is", "SOLVER.IMS_PER_BATCH 8"),
    *((f"SOLVER.STEPS {steps}", "SOLVER.STEPS must be rising epochs from 1 on", "SOLVER.STEPS [1,2]")
      for steps in ("[50,30]", "[30,30]", "[0,30]", "[-1]")),
    *((f"MODEL.ENCODER.{size} 64", f"MODEL.ENCODER.{size} needs MODEL.PRETRAIN_CHOICE 'none'",
       NONE + "MODEL.ENCODER.WIDTH 64") for size in ("WIDTH", "DEPTH", "HEADS", "PATCH", "EMBED")),
    (NONE + "MODEL.PRETRAIN_PATH x.pt", "MODEL.PRETRAIN_PATH needs MODEL.PRETRAIN_CHOICE", "MODEL.PRETRAIN_PATH x.pt"),
    (NONE + "MODEL.ENCODER.WIDTH 96", "MODEL.ENCODER.WIDTH must be a multiple of 64", NONE + "MODEL.ENCODER.WIDTH 192"),
    (NONE + "MODEL.ENCODER.EMBED 96", "MODEL.ENCODER.EMBED must be a multiple of 64", NONE + "MODEL.ENCODER.EMBED 192"),
    (NONE + "MODEL.ENCODER.WIDTH 128 MODEL.ENCODER.HEADS 3", "MODEL.ENCODER.HEADS 3 must divide",
     NONE + "MODEL.ENCODER.WIDTH 128 MODEL.ENCODER.HEADS 4"),
    (NONE + OBLONG + "MODEL.ENCODER.PATCH 16", "INPUT.SIZE_TRAIN [32, 12] is smaller than a patch of 16",
     NONE + OBLONG + "MODEL.ENCODER.PATCH 12"),
]  # fmt: skip


def from_yaml(tmp_path, text):
    (tmp_path / "study.yml").write_text(text, encoding="utf-8")
    return load_cfg(tmp_path / "study.yml")


def nested(key, value):
    parts = key.split(".")
    return "\n".join(f"{'  ' * depth}{part}:" for depth, part in enumerate(parts)) + f" {value}\n"


def refused(options, start):
    with pytest.raises(ConfigError, match=f"^(command line: )?{re.escape(start)}") as caught:
        load_cfg(None, options)
    assert "\n" not in str(caught.value)


def test_changing_one_copy_of_the_defaults_leaves_the_next_copy_alone():
    get_cfg().SOLVER.STEPS.append(99)
    get_cfg().SOLVER.SEED = 1
    assert (get_cfg().SOLVER.SEED, get_cfg().SOLVER.STEPS) == (1234, [30, 50, 70])


def test_vit_base_is_the_default_recipe_in_everything_but_the_users_three_keys():
    loaded, defaults = dict(flatten(load_cfg(DEFAULT_CONFIG))), dict(flatten(get_cfg()))
    assert {k for k in defaults if loaded[k] != defaults[k]} <= {"DATASETS.NAMES", "DATASETS.ROOT_DIR", "OUTPUT_DIR"}
    assert {key: type(value) for key, value in loaded.items()} == {key: type(value) for key, value in defaults.items()}
    assert loaded["DATASETS.NAMES"] == "MARS"


def test_the_loaded_config_is_frozen_in_every_section():
    cfg = load_cfg(DEFAULT_CONFIG)
    for node, leaf in ((cfg, "OUTPUT_DIR"), (cfg.SOLVER, "SEED"), (cfg.MODEL.SSP, "LAYERS")):
        with pytest.raises(AttributeError):
            setattr(node, leaf, 1)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path):
    from_yaml(tmp_path, "SOLVER:\n  SEED: 7\n  MAX_EPOCHS: 9\n")
    cfg = load_cfg(tmp_path / "study.yml", ["SOLVER.SEED", "8"])
    assert (cfg.SOLVER.SEED, cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.MARGIN) == (8, 9, 0.3)


@pytest.mark.parametrize(("key", "written", "meant"), SAME_IN_FILE_AND_COMMAND_LINE)
def test_a_value_means_the_same_in_a_file_and_on_the_command_line(tmp_path, key, written, meant):
    for cfg in (from_yaml(tmp_path, nested(key, written)), load_cfg(None, [key, written])):
        found = dict(flatten(cfg))[key]
        assert (found, type(found)) == (meant, type(meant))


@pytest.mark.parametrize(("key", "value"), [option.split() for option in WRONG_KIND.split("|")])
def test_a_value_of_the_wrong_kind_is_refused_by_key_wherever_it_stands(tmp_path, key, value):
    refused([key, value], f"command line: {key} must be")
    with pytest.raises(ConfigError, match=f"study.yml: {key} must be"):
        from_yaml(tmp_path, nested(key, value))


@pytest.mark.parametrize(("key", "hint"), UNKNOWN)
def test_an_unknown_key_is_refused_with_the_name_to_use(tmp_path, key, hint):
    with pytest.raises(ConfigError, match=f"^command line: .*{key}.*{hint}"):
        load_cfg(None, [key, "1"])
    with pytest.raises(ConfigError, match=f"study.yml: .*{key}.*{hint}"):
        from_yaml(tmp_path, nested(key, "1"))


def test_renamed_keys_have_names_that_exist():
    assert set(RENAMED.values()) <= set(dict(flatten(get_cfg())))
    with pytest.raises(ConfigError, match="called SOLVER.STEPS here"):
        load_cfg(None, ["SOLVER.STAGE2.STEPS", "1"])
    with pytest.raises(ConfigError, match="it is gone"):
        load_cfg(None, ["SOLVER.STAGE2.MOMENTUM", "1"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [("SOLVER:\n  SEED: 1\n  STEPS: [30,\n", ", line 4: not valid YAML"), ("A:\n\t1", ", line 2: not valid YAML"),
     ("A: }", ", line 1: not valid YAML"), ("just words", ": expected sections such as MODEL:, found str")],
)  # fmt: skip
def test_a_broken_file_is_named_with_the_line(tmp_path, text, fault):
    with pytest.raises(ConfigError, match=f"study.yml{fault}"):
        from_yaml(tmp_path, text)


def test_a_missing_file_and_a_missing_partner_are_named_and_an_empty_file_means_the_defaults(tmp_path):
    refused(["SOLVER.SEED", "1", "OUTPUT_DIR"], "command line: options come in pairs KEY VALUE, 'OUTPUT_DIR'")
    with pytest.raises(ConfigError, match="nowhere.yml does not exist"):
        load_cfg(tmp_path / "nowhere.yml")
    assert from_yaml(tmp_path, "# nothing set\n") == load_cfg()


@pytest.mark.parametrize(("key", "least", "most"), RANGES)
def test_a_number_lies_between_its_least_and_its_most(key, least, most):
    options = ["MODEL.PRETRAIN_CHOICE", "none", "INPUT.SIZE_TRAIN", "[32, 16]", "INPUT.SIZE_TEST", "[32, 16]"]
    options += NEIGHBOURS.get(key, "").split()
    whole = isinstance(dict(flatten(get_cfg()))[key], int)
    for value in (-1, least - 1 if whole else least / 2 - 1e-9, most + 1 if whole else most * 1.01, 1e9 * most):
        refused([*options, key, f"{value}"], f"{key} must ")
    assert dict(flatten(load_cfg(None, [*options, key, f"{most}"])))[key] == most


def test_every_number_of_a_config_has_a_range():
    """A key without one would take 1e9 and build until the process is killed."""
    numbers = [
        key for key, value in flatten(get_cfg())
        if type(value[0] if isinstance(value, list) and value else value) in (int, float)
    ]  # fmt: skip
    unbounded = []
    for key in numbers:
        try:
            load_cfg(None, [key, "18446744073709551615"])
            unbounded.append(key)
        except ConfigError:
            pass
    assert len(numbers) > 40 and unbounded == ["SOLVER.SEED", "SOLVER.BASE_LR", "SOLVER.STEPS"]  # no sizes


@pytest.mark.parametrize(("key", "words"), WORDS.items())
def test_a_word_that_is_no_choice_is_refused_with_all_choices(key, words):
    refused([key, "Neither"], f"{key} must be one of {words.replace(' ', ', ')}, found 'Neither'")
    assert [dict(flatten(load_cfg(None, [key, word])))[key] for word in words.split()] == words.split()


@pytest.mark.parametrize(("options", "start", "accepted"), CONTRADICTIONS)
def test_a_contradiction_is_refused_and_the_sound_neighbour_accepted(options, start, accepted):
    refused(options.split(), start)
    load_cfg(None, accepted.split())


def test_changed_keys_lists_old_and_new_values_and_absent_keys():
    old, new = get_cfg(), get_cfg()
    new.SOLVER.SEED, new.INPUT.SIZE_TRAIN = 7, [64, 32]
    assert changed_keys(old.dump(), old) == {}
    assert changed_keys(old.dump(), new) == {"INPUT.SIZE_TRAIN": ([256, 128], [64, 32]), "SOLVER.SEED": (1234, 7)}
    assert changed_keys("OLD: 1\n" + old.dump(), old) == {"OLD": (1, None)}
    # A key that the text lacks had its default value: it came later.
    assert changed_keys("OUTPUT_DIR: elsewhere\n", new)["SOLVER.SEED"] == (1234, 7)
    for text in ("", "MODEL: [", "just words"):
        with pytest.raises(ValueError, match="not a config"):
            changed_keys(text, old)


def test_lists_of_sets_are_read_with_and_without_quotes():
    expected = ["MARS:/a, b", "LS-VID:/c"]
    for text in ("('MARS:/a, b', 'LS-VID:/c')", "[MARS:/a, b, LS-VID:/c]", "MARS:/a, b,LS-VID:/c"):
        assert load_cfg(opts=["TEST.DATASETS", text]).TEST.DATASETS == expected
    for nothing in ("[]", "()", ""):
        assert load_cfg(opts=["TEST.DATASETS", nothing]).TEST.DATASETS == []


def test_home_folder_in_paths():
    cfg = load_cfg(opts=["DATASETS.CACHE_DIR", "~/cache", "OUTPUT_DIR", "runs/~x"])
    assert cfg.DATASETS.CACHE_DIR == str(Path.home() / "cache") and cfg.OUTPUT_DIR == "runs/~x"


@pytest.mark.parametrize("name", ["vit_base_lsvid.yml", "vit_base_ilids.yml"])
def test_recipes_of_the_authors(name):
    cfg = load_cfg(DEFAULT_CONFIG.parent / name)
    lsvid = name == "vit_base_lsvid.yml"
    assert cfg.MODEL.SSP.VARIANT == "simple"
    assert (cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.STEPS) == ((80, [30, 50, 70]) if lsvid else (60, [30, 50]))
    assert cfg.SOLVER.LARGE_FC_LR is lsvid and cfg.SOLVER.LARGE_PROMPT_LR is lsvid
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_EPOCHS, cfg.INPUT.SEQ_LEN) == (5e-6, 10, 8)
