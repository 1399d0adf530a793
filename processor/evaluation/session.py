"""Testing one weight file on one data set or on several, and the tests within training."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from yacs.config import CfgNode

from configs import changed_keys, load_cfg
from datasets import build_test_loader, find_dataset, parse_dataset_list, plain_name
from datasets.frames import frame_source
from model import build_model, pixel_statistics
from model.encoder import activation
from model.tfclip import TFCLIP
from model.weights import ArchitectureError, load_weights, read_weight_file
from processor import run_folder as files
from processor.distributed import current_ranks
from processor.evaluation.attention import best_middle_worst, query_pictures
from processor.evaluation.attention_figure import Picture
from processor.evaluation.evaluator import Evaluation, evaluate
from processor.evaluation.html_report import RunPage, write_page
from processor.evaluation.reports import log_results, log_table, protocol_line, write_reports
from processor.experiment import Experiment, log_environment, prepare
from processor.runtime import current_device
from processor.trained_model import TrainedModel
from utils.errors import InputError
from utils.files import save_json
from utils.interrupt import deferred_interrupts
from utils.logger import log_to_file

logger = logging.getLogger(__name__)

_NOT_OF_A_TEST = (  # keys that are not needed to repeat a test
    "OUTPUT_DIR", "SOLVER.", "DATASETS.CACHE_DIR", "TEST.CAMERA_PAIRS", "TEST.CONTACT_SHEET", "TEST.DATASETS",
    "TEST.EVAL_SAMPLING", "TEST.REPORT", "TEST.SAVE_", "TEST.UNTRAINED", "TEST.WEIGHT",
)  # fmt: skip


def evaluate_part(experiment: Experiment, model: TFCLIP, sampling: str, part: str = "test") -> Evaluation:
    """Rank the queries of the test part or of the validation part ('val'); the gallery of the latter includes them."""
    query, gallery = experiment.part(part)
    protocol = experiment.protocol(sampling, part, model.encoder.camera_embed is not None)
    splits = experiment.splits
    source = frame_source(splits.pack, splits.root)
    options = {"sampling": sampling, "source": source, "bad_frames": splits.bad_frames}
    build_loader = partial(build_test_loader, experiment.cfg, **options)
    evaluation = evaluate(model, build_loader, query + gallery, len(query), protocol, experiment.test_runtime)
    experiment.share_bad_frames()
    return evaluation


def report(
    experiment: Experiment, model: TFCLIP, rows: Mapping[str, Mapping], evaluation: Evaluation, extra: Mapping
) -> None:
    """Log the scores as a table and write the files that were asked for; `model` is the one that was tested."""
    keys = experiment.cfg.TEST
    out, splits = experiment.out, experiment.splits
    if experiment.splits.bad_frames is not None:
        extra = {**extra, "frames_replaced": len(experiment.splits.bad_frames.files)}
    asked = (keys.SAVE_FEATURES, keys.SAVE_RANKS, keys.CAMERA_PAIRS, keys.CONTACT_SHEET)
    if experiment.runtime.ranks.is_main:
        written = write_reports(out, evaluation, extra, splits, *asked)
        log_results(evaluation, rows)
        logger.info("wrote %s", ", ".join(map(str, written)))
        if keys.REPORT:
            changes = changed_keys("{}", experiment.cfg)
            changes = {key: changes[key] for key in extra.get("config", changes)}
            with files.optional(out / files.PAGE, f"python -m processor.report {out} makes it again"):
                attention = attention_of_test(experiment, model, evaluation)
                page = RunPage(
                    out, evaluation, splits, changes=changes, attention=attention, epochs_tested=epochs_tested(out)
                )
                write_page(out / files.PAGE, page)
                logger.info("wrote %s", out / files.PAGE)


def epochs_tested(folder: Path) -> str:
    """How the training in a folder tested its epochs for history.csv, in words; empty where no config.yml says so."""
    if not (folder / files.CONFIG).exists():
        return ""
    cfg = load_cfg(folder / files.CONFIG)
    part = "validation part (SOLVER.SELECT_BY val)" if cfg.SOLVER.SELECT_BY == "val" else "test part"
    return f"{part}, {cfg.TEST.EVAL_SAMPLING} sampling (TEST.EVAL_SAMPLING)"


def attention_of_test(experiment: Experiment, model: TFCLIP, evaluation: Evaluation) -> list[Picture]:
    """Where the tested model looks in the queries of best, middle and worst average precision."""
    cameras = experiment.splits.cameras if model.encoder.camera_embed is not None else ()
    trained = TrainedModel(experiment.cfg, model, experiment.test_runtime, cameras, experiment.dataset)
    precisions = [ranking.average_precision for ranking in evaluation.rankings]
    return query_pictures(trained, experiment.splits, experiment.dataset, best_middle_worst(precisions))


def evaluate_one(cfg: CfgNode, weight: Path) -> None:
    """Test a weight file on the data set of the config; the report goes to OUTPUT_DIR."""
    _evaluate(prepare(cfg, Path(cfg.OUTPUT_DIR)), weight)


def evaluate_several(cfg: CfgNode, weight: Path) -> None:
    """Test a weight file on every set of TEST.DATASETS: a folder for each, one table and one metrics.json for all."""
    out = Path(cfg.OUTPUT_DIR)
    log_environment(current_device())
    if cfg.DATASETS.PACK:
        logger.warning("DATASETS.PACK belongs to DATASETS.NAMES; the sets of TEST.DATASETS are read from their files")
    experiments: list[Experiment] = []
    for number, (name, root) in enumerate(parse_dataset_list(cfg.TEST.DATASETS), start=1):
        try:
            experiments.append(prepare(_of_one_set(cfg, name, root), out / f"{number}-{name}", name, root))
        except InputError as error:
            raise InputError(f"TEST.DATASETS '{name}:{root}': {error.line}") from None
    ranks = current_ranks()
    ranks.on_main(lambda: files.create_output_dir(out))
    log_to_file(out / files.TEST_LOG)
    evaluations = {experiment.out.name: _evaluate(experiment, weight) for experiment in experiments}
    for evaluation in evaluations.values():
        logger.info("%s", protocol_line(evaluation))
    summaries = {name: evaluation.summary() for name, evaluation in evaluations.items()}
    log_table(summaries)
    ranks.on_main(lambda: save_json(out / files.METRICS, {"weight": str(weight), "datasets": summaries}))
    logger.info("wrote %s", out / files.METRICS)


def _of_one_set(cfg: CfgNode, name: str, root: str) -> CfgNode:
    """The config of the test on one set of several."""
    own = cfg.clone()
    own.defrost()
    own.DATASETS.NAMES, own.DATASETS.ROOT_DIR, own.DATASETS.PACK = name, root, ""
    if find_dataset(name).num_splits == 1:
        own.DATASETS.SPLIT = "0"
    own.freeze()
    return own


def tested_model(experiment: Experiment, weight: Path) -> TFCLIP:
    """The network of the config with these weights; raises InputError where they do not fit it or the test."""
    cfg = experiment.cfg
    model = build_model(cfg, experiment.splits.num_classes, experiment.splits.num_cameras, pretrained=False)
    try:
        loaded = load_weights(model, weight, here=experiment.cameras, unseen=cfg.MODEL.SIE_UNSEEN)
    except ArchitectureError as error:
        raise InputError(f"{error}{_how_trained(weight, cfg)}") from None
    if loaded.kind not in ("published", "checkpoint"):
        raise InputError(f"TEST.WEIGHT {weight} holds only CLIP's encoder; a test needs weights of a trained TF-CLIP")
    if loaded.config:
        _check_same_input(weight, loaded.config, cfg)
    if find_dataset(experiment.dataset).num_splits > 1:
        _check_same_split(weight, loaded.config, experiment)
    logger.info("weights: %s", weight)
    for line in loaded.lines():
        logger.info("%s", line)
    return model


def _evaluate(experiment: Experiment, weight: Path) -> Evaluation:
    """Load the weights, test, and write the report of one data set."""
    cfg, model = experiment.cfg, tested_model(experiment, weight)
    experiment.runtime.ranks.on_main(lambda: files.create_output_dir(experiment.out))
    if not cfg.TEST.DATASETS:
        log_to_file(experiment.out / files.TEST_LOG)
    with deferred_interrupts():
        evaluation = evaluate_part(experiment, model.to(experiment.runtime.device), cfg.TEST.SAMPLING)
        experiment.runtime.ranks.check_stop()
    # A test has no config.yml: its folder may be that of a training with another one.
    config = {key: value for key, (_, value) in changed_keys("{}", cfg).items() if not key.startswith(_NOT_OF_A_TEST)}
    extra = {"weight": str(weight), "config": config}
    report(experiment, model, {weight.name: evaluation.summary()}, evaluation, extra)
    return evaluation


def _how_trained(weight: Path, cfg: CfgNode) -> str:
    """For weights that do not fit the network: the keys that differ from their training, and where its config lies."""
    config = weight.parent / files.CONFIG
    changes = changed_keys(trained, cfg) if (trained := read_weight_file(weight).config) else {}
    sizes = ("MODEL.", "INPUT.SIZE", "INPUT.SEQ_LEN")
    network = [f"{key} {was}" for key, (was, _) in changes.items() if key.startswith(sizes)]
    hints = [f"it was trained with {', '.join(network)}"] if network else []
    hints += [f"the config of its run is {config} (--config_file)"] if config.exists() else []
    return "".join(f"; {hint}" for hint in hints)


def _check_same_input(weight: Path, trained: str, cfg: CfgNode) -> None:
    """Raise InputError when the model was trained with another activation; warn of other pixel statistics."""
    then = cfg.clone()
    then.defrost()
    for key, (was, _) in changed_keys(trained, cfg).items():
        if key in ("MODEL.NAME", "MODEL.PRETRAIN_CHOICE") or key.startswith("INPUT.PIXEL_"):
            section, leaf = key.split(".")
            then[section][leaf] = was
    if activation(then.MODEL.NAME) != activation(cfg.MODEL.NAME):
        raise InputError(
            f"TEST.WEIGHT {weight} was trained with MODEL.NAME {then.MODEL.NAME} ({activation(then.MODEL.NAME)}); "
            f"{cfg.MODEL.NAME} has {activation(cfg.MODEL.NAME)}: set MODEL.NAME {then.MODEL.NAME}"
        )
    was, now = pixel_statistics(then), pixel_statistics(cfg)
    if was[:2] != now[:2]:
        logger.warning(
            "%s was trained with pixel mean %s, std %s (%s); it is tested with mean %s, std %s (%s)", weight, *was, *now
        )


def _check_same_split(weight: Path, trained: str, experiment: Experiment) -> None:
    """Raise InputError when the model was trained on another split or half: on people of this test."""
    if not trained:
        logger.warning(
            "%s does not say which split and half it was trained on; the authors' release trains on the first half "
            "(DATASETS.TRAIN_HALF first)", weight,
        )  # fmt: skip
        return
    changes = changed_keys(trained, experiment.cfg)
    trained_set, _ = changes.get("DATASETS.NAMES", (experiment.cfg.DATASETS.NAMES, None))
    if plain_name(str(trained_set)) != plain_name(experiment.dataset):
        return
    for key in ("DATASETS.SPLIT", "DATASETS.TRAIN_HALF"):
        if key in changes:
            was, now = changes[key]
            raise InputError(
                f"TEST.WEIGHT {weight} was trained with {key} {was}; with {now} it would be tested on people of its "
                f"training: set {key} {was}"
            )
