"""The extractor computes what a test of its model computes, whatever form the frames have."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from configs import load_cfg
from configs.command import run_command
from model import build_model
from processor.extractor import FeatureExtractor
from processor.extractor import extractor as extractor_module
from tests.conftest import load, tiny_cfg, tiny_model
from tests.reference import NARROW_OPTIONS, published_state
from tests.tolerance import TINY_LAYERS, TINY_SUM, allowed, assert_close
from utils.errors import InputError, MissingFileError

NEAR = allowed(1.0, TINY_SUM, TINY_LAYERS)  # features have length 1


def noise(frames: int, height: int = 40, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_features_are_those_of_the_test(extractor, tested):
    tracklets, cameras, expected = tested
    features = extractor.many([t.frames for t in tracklets], cameras, progress=False)
    assert features.dtype == np.float32 and features.shape == (len(tracklets), extractor.num_features)
    assert np.abs(features - expected).max() <= min(NEAR, 1e-6)
    assert_close(np.linalg.norm(features, axis=1), np.ones(len(features)), terms=extractor.num_features)


def test_one_tracklet_alone_has_the_same_feature(extractor, tested):
    tracklets, cameras, expected = tested
    one = extractor(list(tracklets[3].frames), cameras[3])
    assert one.shape == expected[3].shape and np.abs(one - expected[3]).max() <= NEAR


def test_pixels_in_memory_are_resized_as_files_are(extractor, tmp_path):
    pixels = noise(5)
    for number, frame in enumerate(pixels):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.iterdir())
    mirrored = np.ascontiguousarray(pixels[..., ::-1])[..., ::-1]  # BGR turned into RGB without a copy
    pixels.setflags(write=False)
    forms = {
        "paths": paths, "texts": [str(path) for path in paths], "images": [Image.fromarray(frame) for frame in pixels],
        "opened": [Image.open(path) for path in paths], "array": pixels, "mirrored": mirrored, "list": list(pixels),
        "mixed": [paths[0], Image.fromarray(pixels[1]), *pixels[2:]],
    }  # fmt: skip
    features = extractor.many(list(forms.values()), progress=False)
    for name, feature in zip(forms, features):
        assert np.abs(feature - features[0]).max() <= NEAR, name
    assert np.abs(features[0] - extractor(noise(5, seed=1))).max() > 100 * NEAR


def test_a_relative_path_is_never_taken_for_a_frame_in_memory(extractor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise(1, seed=5)[0]).save("0 of tracklet 1", format="PNG")
    both = extractor.many([["0 of tracklet 1"], noise(1, seed=6)], progress=False)
    assert np.abs(both[0] - extractor(noise(1, seed=5))).max() <= NEAR
    assert np.abs(both[1] - extractor(noise(1, seed=6))).max() <= NEAR


def test_cameras_are_named_for_all_or_for_each(extractor):
    assert extractor.cameras == ("1", "2", "3")
    clip = noise(2, 32, 16)
    one = extractor.many([clip] * 3, "2", progress=False)
    each = extractor.many([clip] * 3, ["2", "1", None], progress=False)
    assert np.abs(one[0] - each[0]).max() <= NEAR
    assert min(np.abs(each[a] - each[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 10 * NEAR
    assert np.abs(each[2] - extractor(clip)).max() <= NEAR  # not known, as when nothing is said
    with pytest.raises(InputError, match="camera 'roof' is unknown to the model, which knows 1, 2, 3;"):
        extractor(clip, camera="roof")
    with pytest.raises(InputError, match="2 cameras were given for 3 tracklets"):
        extractor.many([clip] * 3, ["1", "2"])


def test_a_model_without_cameras_takes_any_name(tmp_path):
    torch.save(tiny_model(num_cameras=0, seed=1).state_dict(), tmp_path / "weights.pth")
    extractor = FeatureExtractor.from_checkpoint(tmp_path / "weights.pth", "cpu", tiny_cfg())
    clip = noise(2, 32, 16)
    assert extractor.cameras == () and np.array_equal(extractor(clip, "roof"), extractor(clip))


def test_a_published_file_with_a_config(tmp_path):
    sizes = "MODEL.PRETRAIN_CHOICE none INPUT.SIZE_TRAIN [64,32] INPUT.SIZE_TEST [64,32]".split()
    cfg = load_cfg(opts=[*sizes, *NARROW_OPTIONS])
    torch.save(published_state(5, 6, 64, 32, narrow=True), tmp_path / "best.pth")
    extractor = FeatureExtractor.from_checkpoint(tmp_path / "best.pth", "cpu", cfg)
    assert extractor.cameras == ("1", "2", "3", "4", "5", "6") and extractor.num_features == 2 * 128 + 64
    clip = noise(cfg.INPUT.SEQ_LEN, 64, 32)
    trained = extractor.trained
    with torch.inference_mode():
        frames = trained.runtime.normalize(torch.from_numpy(clip).permute(0, 3, 1, 2))
        expected = trained.model.embed(frames[None], torch.tensor([2]))[0]
    assert np.abs(extractor(clip, "3") - (expected / expected.norm()).numpy()).max() <= allowed(1.0, 4 * 128, 12 + 4)


def test_the_keys_of_the_test_apply(trained_run, extractor, caplog):
    tracklets = [noise(5, seed=seed) for seed in range(4)]
    usual = extractor.many(tracklets, progress=False)

    def features(*opts):
        cfg = load_cfg(trained_run / "config.yml", opts)
        return FeatureExtractor.from_checkpoint(trained_run / "best.pth", "cpu", cfg).many(tracklets, progress=False)

    assert np.abs(features("TEST.FRAMES_PER_BATCH", "2") - usual).max() <= NEAR
    for other in (("TEST.SAMPLING", "first"), ("TEST.NECK_FEAT", "after"), ("TEST.PRECISION", "bf16")):
        assert np.abs(features(*other) - usual).max() > 10 * NEAR
    assert "FEAT_NORM" not in caplog.text
    assert np.array_equal(features("TEST.FEAT_NORM", "False"), usual)
    assert "TEST.FEAT_NORM False: a test compares features of any length, here they have length 1" in caplog.text


def test_a_frame_that_cannot_be_read_is_named_or_replaced(trained_run, extractor, tmp_path):
    Image.fromarray(noise(1)[0]).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=f"frame {tmp_path}/bad.png cannot be decoded"):
        extractor([tmp_path / "good.png", tmp_path / "bad.png"])
    with pytest.raises(MissingFileError, match=f"frame {tmp_path}/none.png does not exist$"):
        extractor([tmp_path / "none.png"])
    Image.fromarray(noise(1)[0]).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:500])
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(InputError, match="frame 1 of tracklet 1 cannot be de"):
        extractor.many([noise(1), [noise(1)[0], cut]], progress=False)
    cfg = load_cfg(trained_run / "config.yml", ["DATASETS.ON_BAD_FRAME", "skip"])
    patient = FeatureExtractor.from_checkpoint(trained_run / "best.pth", "cpu", cfg)
    both = patient.many([[tmp_path / "good.png", tmp_path / "bad.png"], [tmp_path / "good.png"] * 2], progress=False)
    assert np.abs(both[0] - both[1]).max() <= NEAR and list(patient.bad_frames.files) == [f"{tmp_path}/bad.png"]


@pytest.mark.parametrize(("tracklet", "words"), [
    ([], "tracklet 1 has no frames"),
    (noise(0), "tracklet 1 has no frames"),
    (noise(2).astype(np.float32), r"tracklet 1 is an array of float32 \(2, 40, 30, 3\); expected are paths, PIL im"),
    (noise(2).transpose(0, 3, 1, 2), r"tracklet 1 is an array of uint8 \(2, 3, 40, 30\)"),
    (noise(1)[0], r"tracklet 1 is an array of uint8 \(40, 30, 3\)"),
    ("folder", "tracklet 1 is a str, not a list of frames"),
    (7, "tracklet 1 is a int, not a list of frames"),
    ([noise(1)[0], noise(1)[0, :, :, 0]], r"frame 1 of tracklet 1 is an array of uint8 \(40, 30\)"),
    ([noise(1)[0, :0]], r"frame 0 of tracklet 1 is an array of uint8 \(0, 30, 3\)"),
    ([None], "frame 0 of tracklet 1 is a NoneType"),
    ([Image.new("F", (4, 4))], "frame 0 of tracklet 1 cannot be decoded .its mode F has no fixed range"),
])  # fmt: skip
def test_what_is_no_tracklet_is_named(extractor, tracklet, words):
    with pytest.raises(InputError, match=words):
        extractor.many([noise(1), tracklet], progress=False)


def test_no_tracklets_have_no_features(extractor):
    assert extractor.many([], progress=False).shape == (0, extractor.num_features)


def test_broken_weights_are_not_taken_for_features(trained_run, tmp_path):
    state = load(trained_run / "best.pth")["model"]
    state["encoder.vit.norm.bias"] = torch.full_like(state["encoder.vit.norm.bias"], torch.nan)
    torch.save(state, tmp_path / "weights.pth")
    extractor = FeatureExtractor.from_checkpoint(tmp_path / "weights.pth", "cpu", tiny_cfg())
    with pytest.raises(InputError, match="the features hold nan or inf: the weights are broken"):
        extractor(noise(2))


def test_nothing_of_torch_is_changed_and_threads_may_use_it(trained_run):
    def state():
        numbers, conv = torch.get_rng_state().tolist(), torch.backends.cudnn.conv.fp32_precision
        products = torch.backends.cuda.matmul.fp32_precision
        return numbers, conv, products, torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()

    before = state()
    extractor = FeatureExtractor.from_checkpoint(trained_run / "best.pth", "cpu")
    here, there = extractor(noise(3)), []
    thread = threading.Thread(target=lambda: there.append(extractor(noise(3))))
    thread.start()
    thread.join()
    assert np.array_equal(there[0], here) and state() == before


def test_passes_of_several_threads_run_one_after_another(trained_run, extractor, monkeypatch):
    """Two at once would restore each other's setting of float32 products."""
    other = FeatureExtractor.from_checkpoint(trained_run / "best.pth", "cpu")
    means_of_loader, running, most = extractor_module.means_of_loader, [], []

    def slow_pass(*args):
        running.append(args)
        time.sleep(0.05)
        most.append(len(running))
        try:
            return means_of_loader(*args)
        finally:
            running.pop()

    monkeypatch.setattr(extractor_module, "means_of_loader", slow_pass)
    threads = [threading.Thread(target=used, args=(noise(2),)) for used in (extractor, other, extractor)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_a_command_that_was_stopped_does_not_stop_what_comes_after_it(extractor):
    def work():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    assert run_command(work) == 130
    assert np.array_equal(extractor(noise(2)), extractor(noise(2)))


@pytest.mark.slow
def test_loader_processes_give_the_same(trained_run, extractor, tested):
    several = FeatureExtractor.from_checkpoint(trained_run / "best.pth", "cpu", num_workers=2)
    tracklets, cameras, expected = tested
    given = [*(t.frames for t in tracklets), noise(5)]
    features = several.many(given, [*cameras, None], progress=False)
    assert np.abs(features[:-1] - expected).max() <= NEAR
    assert np.abs(features[-1] - extractor(noise(5))).max() <= NEAR


@pytest.mark.slow
def test_a_resnet(tmp_path):
    """[v_p ; v_t]: v_g is no part of a ResNet's feature."""
    sizes = {f"MODEL__ENCODER__{name}": 0 for name in ("WIDTH", "DEPTH", "HEADS", "PATCH", "EMBED")}
    sizes |= {"MODEL__STRIDE_SIZE": "[16,16]", "INPUT__SIZE_TRAIN": "[64,32]", "INPUT__SIZE_TEST": "[64,32]"}
    cfg = tiny_cfg(MODEL__NAME="RN50", MODEL__SIE_CAMERA=False, **sizes)
    model = build_model(cfg, 3, 0).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    extractor = FeatureExtractor.from_checkpoint(tmp_path / "weights.pth", "cpu", cfg)
    clip = noise(2, 64, 32)
    frames = extractor.trained.runtime.normalize(torch.from_numpy(clip).permute(0, 3, 1, 2))
    with torch.inference_mode():
        expected = model.embed(frames[None])[0]
    assert extractor.num_features == len(expected)
    assert np.abs(extractor(clip) - (expected / expected.norm()).numpy()).max() <= allowed(1.0, 9 * 512, 17)
