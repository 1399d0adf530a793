"""What an exported file computes: the features of a test, for any number of tracklets, clips and frames."""

import math

import numpy as np
import pytest
import torch
from torch.export.passes import move_to_device_pass

from datasets.clips import Normalize
from model.resnet_encoder import CLIPResNetEncoder, create_resnet
from model.temporal_memory import TemporalMemoryDiffusion
from model.tfclip import TFCLIP
from processor.export import check, onnx_file, pt2_file
from processor.export.wrapper import ANY_LENGTH, TrackletFeatures, trace
from processor.export.write import quiet_exporters, write_checked
from processor.runtime import Runtime
from tests.conftest import contents, tiny_model
from tests.model.test_resnet_encoder import make_norms_matter
from utils.errors import InputError

SIZE = (32, 16)
LENGTH = 2  # INPUT.SEQ_LEN of the tiny model
SHAPES = [(T, clips) for T in (1, 4, 8) for clips in ((1,), (3, 5), (2, 1, 4))]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class Case:
    """A model with what is exported of it."""

    def __init__(self, model: TFCLIP, num_cameras: int, size=SIZE, half: bool = False, unit_length: bool = True):
        self.model, self.num_cameras, self.size, self.half = model.eval(), num_cameras, size, half
        runtime = Runtime(torch.device("cpu"), None, Normalize(MEAN, STD))
        self.reference = check.model_run(model, runtime, unit_length)
        self.module = TrackletFeatures(model, runtime.normalize, num_cameras > 0, unit_length, half)

    def batch(self, length: int, clips) -> check.TrackletBatch:
        return check.random_batch(self.size, self.num_cameras, length, clips)

    def eager(self, batch: check.TrackletBatch) -> np.ndarray:
        with torch.no_grad():
            return self.module(*(torch.from_numpy(values) for values in batch if values is not None)).numpy()


def tiny_case(cameras: bool = True, half: bool = False, unit_length: bool = True, **overrides) -> Case:
    model = tiny_model(num_cameras=3 if cameras else 0, seed=2, **overrides).eval()
    with torch.no_grad():
        for neck in (model.neck_g, model.neck_p, model.neck_t):
            if neck is not None:  # statistics of a new neck are 0 and 1, and change nothing
                neck.running_mean.uniform_(-1, 1)
                neck.running_var.uniform_(0.5, 2)
    if cameras:
        with torch.no_grad():
            model.encoder.camera_embed.uniform_(-1, 1)
        model.encoder.map_cameras([2, 0, 1, None], [0, 1, 2], "mean")
    return Case(model, 4 if cameras else 0, half=half, unit_length=unit_length)


def rn50_case() -> Case:
    torch.manual_seed(3)
    encoder = CLIPResNetEncoder(make_norms_matter(create_resnet("RN50", (64, 32))))
    return Case(TFCLIP(encoder, None, TemporalMemoryDiffusion(encoder.width), num_classes=1), 0, (64, 32))


CASES = {
    "vit": tiny_case,
    "no cameras": lambda: tiny_case(cameras=False),
    "neck after": lambda: tiny_case(TEST__NECK_FEAT="after"),
    "tap": lambda: tiny_case(MODEL__TEMPORAL="TAP"),
    "tap, neck after": lambda: tiny_case(MODEL__TEMPORAL="TAP", TEST__NECK_FEAT="after"),
    "conv1d": lambda: tiny_case(MODEL__TEMPORAL="CONV1D"),
    "not unit length": lambda: tiny_case(unit_length=False),
    "stride, checkpointing, penultimate": lambda: tiny_case(
        MODEL__STRIDE_SIZE="[6, 6]", MODEL__GRAD_CHECKPOINT=True, MODEL__TRIPLET_PENULTIMATE=True
    ),
    "rn50": rn50_case,
}
SAVE = {
    "onnx": lambda path, program: onnx_file.save(path, program, {"name": "value"}, 20),
    "pt2": lambda path, program: pt2_file.save(path, program, {"name": "value"}),
}
LOAD = {"onnx": onnx_file.load, "pt2": pt2_file.load}


def exported(case: Case, file_format: str, path, any_length: bool = True) -> check.Run:
    """What the file of a case computes."""
    if file_format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    with quiet_exporters():
        SAVE[file_format](path, trace(case.module, case.size, LENGTH, any_length))
    return LOAD[file_format](path)


@pytest.fixture(scope="module")
def vit() -> Case:
    return tiny_case()


@pytest.fixture(scope="module")
def vit_program(vit):
    return trace(vit.module, SIZE, LENGTH, any_length=True)


@pytest.mark.parametrize("length", [1, 4])
def test_tracklets_share_a_batch_and_keep_their_own_clips_and_camera(vit, length):
    batch = vit.batch(length, (3, 1, 2))
    together = vit.eager(batch)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx([1, 1, 1], abs=1e-6)
    assert np.abs(together - vit.reference(batch)).max() < check.FLOAT32_LIMIT
    start = 0
    for row, count in enumerate(batch.num_clips):
        one = check.TrackletBatch(
            batch.frames[start : start + count], batch.num_clips[row : row + 1], batch.cameras[row : row + 1]
        )
        start += count
        assert np.abs(vit.eager(one)[0] - together[row]).max() < 1e-5
    other = batch._replace(cameras=(batch.cameras + 1) % 4)
    assert np.linalg.norm(vit.eager(other) - together, axis=1).min() > 100 * check.FLOAT32_LIMIT


def test_clips_are_not_normalised_before_their_mean():
    case = tiny_case(unit_length=False)
    clips = [case.eager(case.batch(4, (1,))), case.eager(case.batch(2, (1,)))]
    assert all(abs(np.linalg.norm(feature) - 1) > 0.1 for feature in clips)
    batch = case.batch(4, (2,))
    parts = [batch._replace(frames=batch.frames[row : row + 1], num_clips=np.array([1])) for row in (0, 1)]
    mean = (case.eager(parts[0]) + case.eager(parts[1])) / 2
    assert np.abs(case.eager(batch) - mean).max() < 1e-5 * np.abs(mean).max()


@pytest.mark.parametrize("num_clips", [[2, 2], [2, 4], [5, 5], [0, 3], [0, 0]])
def test_numbers_of_clips_that_do_not_add_up_give_no_feature(vit, num_clips):
    batch = vit.batch(1, (2, 3))._replace(num_clips=np.array(num_clips, np.int64))
    assert np.isnan(vit.eager(batch)).all()
    emptied = vit.eager(batch._replace(num_clips=np.array([0, 5])))
    assert np.isnan(emptied).all(axis=1).tolist() == [True, False]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_of_the_check_is_what_the_network_is_built_for(vit, shape):
    """Random frames have to tell tracklets apart, or a check with them would pass whatever is averaged."""
    features = vit.reference(vit.batch(*shape))
    nearest = [np.linalg.norm(a - b) for row, a in enumerate(features) for b in features[:row]]
    assert min(nearest, default=1) > 100 * check.FLOAT32_LIMIT


def test_a_wrong_mean_is_found(vit):
    def run_with_a_wrong_mean(batch):
        return vit.eager(batch._replace(frames=np.roll(batch.frames, 1, axis=0)))

    batches = check.random_batches(SIZE, 4, LENGTH, any_length=True)
    assert check.largest_difference(vit.eager, vit.reference, batches) < 1e-5
    assert check.largest_difference(run_with_a_wrong_mean, vit.reference, batches) > 100 * check.FLOAT32_LIMIT


def test_the_checks_batches_have_the_shapes_that_are_promised():
    batches = check.random_batches(SIZE, 0, LENGTH, any_length=True)
    assert {batch.frames.shape[1] for batch in batches} == {1, 4, 8}
    assert {len(batch.num_clips) for batch in batches} == {1, 2, 3}
    assert {int(count) for batch in batches for count in batch.num_clips} == {1, 3, 5}
    assert all(batch.num_clips.sum() == len(batch.frames) and batch.cameras is None for batch in batches)
    fixed = check.random_batches(SIZE, 3, LENGTH, any_length=False)
    assert {batch.frames.shape[1] for batch in fixed} == {LENGTH}
    assert {int(camera) for batch in fixed for camera in batch.cameras} <= {0, 1, 2}


def test_a_pt2_file_computes_what_the_model_computes(vit, vit_program, tmp_path):
    with quiet_exporters():
        SAVE["pt2"](tmp_path / "file.pt2", vit_program)
    run = pt2_file.load(tmp_path / "file.pt2")
    assert check.largest_difference(run, vit.reference, [vit.batch(*shape) for shape in SHAPES]) < check.FLOAT32_LIMIT
    extra = {pt2_file.FACTS: ""}
    torch.export.load(str(tmp_path / "file.pt2"), extra_files=extra)
    assert extra[pt2_file.FACTS] == '{\n  "name": "value"\n}'


def test_a_program_has_no_weights_that_it_does_not_use(vit, vit_program):
    assert [node.name for node in vit_program.graph.nodes if node.op == "placeholder" and not node.users] == []
    assert vit.model.ssp is not None and vit.model.neck_g is not None  # the model itself keeps its parts


@pytest.mark.slow
def test_a_program_moves_to_another_device_as_a_whole():
    """The device 'meta' has no numbers, so that whatever stays behind on the CPU cannot be computed with."""
    moved = move_to_device_pass(trace(tiny_case().module, SIZE, LENGTH, any_length=True), "meta").module()
    batch = [torch.from_numpy(values).to("meta") for values in check.random_batch(SIZE, 4, 3, (2, 1))]
    features = moved(*batch)
    assert features.device.type == "meta" and features.shape == (2, 192)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["onnx", "pt2"])
@pytest.mark.parametrize("name", CASES)
def test_files_of_all_networks_compute_what_the_model_computes(name, file_format, tmp_path):
    case = CASES[name]()
    run = exported(case, file_format, tmp_path / "file")
    difference = check.largest_difference(run, case.reference, [case.batch(*shape) for shape in SHAPES])
    assert difference < check.FLOAT32_LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["onnx", "pt2"])
@pytest.mark.parametrize("temporal", ["CONV1D_VIEW", "TRANSF", "TRANSF_CLS"])
def test_heads_of_one_clip_length_are_exported_for_it(temporal, file_format, tmp_path):
    assert temporal not in ANY_LENGTH
    over = {"INPUT__SEQ_LEN": LENGTH, "MODEL__TEMPORAL": temporal}
    case = tiny_case(**over)
    run = exported(case, file_format, tmp_path / "file", any_length=False)
    batches = [case.batch(LENGTH, clips) for _, clips in SHAPES]
    assert check.largest_difference(run, case.reference, batches) < check.FLOAT32_LIMIT
    with pytest.raises(Exception, match="(?i)frames|shape|dimension"):
        run(case.batch(LENGTH + 1, (1,)))


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["onnx", "pt2"])
@pytest.mark.parametrize("name", ["before", "after"])
def test_half_precision_stays_within_its_roundings(name, file_format, tmp_path):
    case = tiny_case(half=True, TEST__NECK_FEAT=name)
    run = exported(case, file_format, tmp_path / "file")
    difference = check.largest_difference(run, case.reference, [case.batch(*shape) for shape in SHAPES])
    assert 1e-5 < difference < check.half_limit(case.module.num_layers) < 0.01
    assert case.model.neck_g.weight.dtype == next(case.model.encoder.parameters()).dtype == torch.float32
    weights = list(case.module.parameters())
    assert sum(weight.nbytes for weight in weights) < 2.1 * sum(weight.numel() for weight in weights)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 25])
def test_the_opset_is_the_one_asked_for_and_axes_have_names(opset, vit, vit_program, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    with quiet_exporters():
        onnx_file.save(tmp_path / "file", vit_program, {"name": "value"}, opset)
    file = onnx.load(tmp_path / "file")
    assert [(o.domain, o.version) for o in file.opset_import] == [("", opset)]
    assert {p.key: p.value for p in file.metadata_props}["name"] == "value"
    axes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in file.graph.input}
    expected = {"frames": ["clips", "frames_per_clip", *SIZE, 3], "num_clips": ["tracklets"], "cameras": ["tracklets"]}
    assert axes == expected
    run = onnx_file.load(tmp_path / "file")
    assert check.largest_difference(run, vit.reference, [vit.batch(4, (2, 1))]) < check.FLOAT32_LIMIT


def test_weights_beyond_two_gibibytes_are_refused_for_onnx(vit_program, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", 1000)
    with pytest.raises(InputError, match=r"an ONNX file holds 2 GiB at most.* --half, or --format pt2"):
        onnx_file.save(tmp_path / "file", vit_program, {}, 20)
    assert contents(tmp_path) == {}


def test_an_onnx_file_that_cannot_be_run_is_said_in_one_line(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "file").write_bytes(b"no such graph")
    with pytest.raises(InputError, match=r"onnxruntime \S+ cannot run the file \(.*Protobuf parsing failed.*\)$"):
        onnx_file.load(tmp_path / "file")


@pytest.mark.parametrize(
    ("factor", "line"),
    [
        (1.01, r"differ from the model's by 1.0e-02 of their length, more than 1.0e-04"),
        (math.nan, r"its features hold nan or inf, which the model's do not"),
        (1, ""),
    ],
)
def test_a_file_that_differs_takes_no_place(vit, tmp_path, factor, line):
    """Neither that of nothing nor that of an earlier file."""
    path = tmp_path / "file.onnx"
    path.write_text("earlier")
    batches = [vit.batch(1, (1, 2))]

    def export():
        return write_checked(
            path,
            lambda temporary: temporary.write_text("new"),
            lambda temporary: lambda batch: factor * vit.reference(batch),
            vit.reference, batches, batches[0], check.FLOAT32_LIMIT,
        )  # fmt: skip

    if line:
        with pytest.raises(InputError, match=line):
            export()
    else:
        assert export().difference == 0
    assert contents(tmp_path) == {path.relative_to(tmp_path): b"earlier" if line else b"new"}


def test_a_model_with_broken_weights_is_said_to_be_so(vit, tmp_path):
    def broken(batch):
        return math.nan * vit.reference(batch)

    batches = [vit.batch(1, (1,))]
    with pytest.raises(InputError, match="the model's own features hold nan or inf"):
        write_checked(tmp_path / "f", touch, lambda _: broken, broken, batches, batches[0], check.FLOAT32_LIMIT)


def test_a_cpu_without_half_kernels_is_named(vit, tmp_path):
    def run(batch):
        raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'")

    batches = [vit.batch(1, (1,))]
    with pytest.raises(InputError, match="cannot compute in half precision on this CPU .* leave --half away"):
        write_checked(tmp_path / "f", touch, lambda _: run, vit.reference, batches, batches[0], 1)
    assert contents(tmp_path) == {}


def touch(path):
    path.touch()
