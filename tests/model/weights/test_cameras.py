"""Which row of a trained camera table belongs to which camera of the data, and what unseen cameras get."""

import pytest
import torch

from model.weights import load_weights
from model.weights.cameras import Cameras, TrainedCameras
from tests.conftest import tiny_model
from tests.model.test_encoder import small_encoder
from tests.tolerance import assert_close
from utils.errors import InputError

MARS = TrainedCameras("MARS", ("1", "2", "3"), (0, 2))  # camera 2 has a row, but training never saw it


@pytest.mark.parametrize(
    ("here", "rows"),
    [
        (Cameras("MARS", ("1", "2", "3")), [0, None, 2]),
        (Cameras("MARS", ("3", "4", "1")), [2, None, 0]),
        (Cameras("LS-VID", ("1", "2", "3")), [None, None, None]),
        (Cameras("MARS", ()), []),
    ],
)
def test_rows_go_by_name_within_a_data_set_and_never_across(here, rows):
    assert MARS.rows_for(here) == rows
    assert TrainedCameras.from_state_dict(MARS.state_dict()) == MARS


def test_the_number_of_cameras_tells_of_which_set_a_published_table_is():
    six = tuple(str(camera) for camera in range(1, 7))
    assert TrainedCameras.of_published(6).rows_for(Cameras("MARS", six)) == [0, 1, 2, 3, 4, 5]
    assert TrainedCameras.of_published(15).rows_for(Cameras("MARS", six)) == [None] * 6
    assert TrainedCameras.of_published(6).rows_for(Cameras("folder", six)) == [None] * 6  # other cameras
    assert TrainedCameras.of_published(7).dataset == "an unknown data set"


def class_tokens(encoder, camids):
    """The first encoder block's class tokens less those without any camera: the embedding that was added."""
    seen = []
    handle = encoder.vit.norm_pre.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    clips = torch.zeros(len(camids), 1, 3, 32, 16)
    with torch.no_grad():
        encoder(clips, torch.tensor(camids))
        encoder(clips, None)
    handle.remove()
    return (seen[0] - seen[1])[:, 0]


@pytest.mark.parametrize("unseen", ["off", "mean"])
def test_an_unseen_camera_gets_nothing_or_the_mean_of_the_trained_rows(unseen):
    encoder = small_encoder(num_cameras=3)
    table = encoder.camera_embed.detach()
    encoder.map_cameras([2, None], trained=(0, 2), unseen=unseen)
    mean = (table[0] + table[2]) / 2
    expected = torch.stack([table[2], torch.zeros_like(mean) if unseen == "off" else mean])
    assert_close(class_tokens(encoder, [0, 1]), expected, terms=1, scale=1)
    encoder.train()
    assert_close(class_tokens(encoder, [0, 1]), table[:2], terms=1, scale=1)
    assert "camera_rows" not in encoder.state_dict() and "substitute_rows" not in encoder.state_dict()


def saved(model, path, cameras=None):
    state = {"model": model.state_dict(), "epoch": 1}
    torch.save(state | ({"cameras": cameras.state_dict()} if cameras else {}), path)
    return path


def embed(model):
    torch.manual_seed(3)
    with torch.no_grad():
        return model.eval().embed(torch.randn(4, 2, 3, 32, 16), torch.tensor([0, 1, 2, 3]))


def test_weights_of_another_set_with_as_many_cameras_never_lend_it_their_rows(tmp_path):
    source = tiny_model(num_cameras=4)
    path = saved(source, tmp_path / "a.pth", TrainedCameras("MARS", tuple("1234"), (0, 1, 2, 3)))
    off = tiny_model(num_cameras=4)
    report = load_weights(off, path, here=Cameras("LS-VID", tuple("1234")))
    assert off.encoder.camera_embed is None and "encoder.camera_embed" in report.skipped
    mean = tiny_model(num_cameras=4)
    report = load_weights(mean, path, here=Cameras("LS-VID", tuple("1234")), unseen="mean")
    assert not report.skipped and "4 of 4 cameras were not trained on" in report.lines()[-1]
    added = class_tokens(mean.eval().encoder, [0, 3])
    row = source.encoder.camera_embed.mean(dim=0).detach()
    assert_close(added, torch.stack([row, row]), terms=1, scale=1)
    same = tiny_model(num_cameras=4)
    assert load_weights(same, path, here=Cameras("MARS", tuple("1234"))).notes == []
    torch.testing.assert_close(embed(same), embed(source), atol=0, rtol=0)


def test_cameras_in_another_order_find_their_rows_by_name(tmp_path):
    source, target = tiny_model(num_cameras=3), tiny_model(num_cameras=3)
    path = saved(source, tmp_path / "a.pth", TrainedCameras("folder", ("gate", "hall", "yard"), (0, 1, 2)))
    report = load_weights(target, path, here=Cameras("folder", ("yard", "gate", "roof")))
    table = source.encoder.camera_embed.detach()
    expected = torch.stack([table[2], table[0], torch.zeros_like(table[0])])
    assert_close(class_tokens(target.eval().encoder, [0, 1, 2]), expected, terms=1, scale=1)
    assert report.notes == ["1 of 3 cameras were not trained on and get no embedding (MODEL.SIE_UNSEEN)"]


def test_mean_serves_a_table_of_another_size_and_training_refuses_it(tmp_path):
    path = saved(tiny_model(num_cameras=6), tmp_path / "a.pth")
    model = tiny_model(num_cameras=15)
    load_weights(model, path, unseen="mean")
    assert model.encoder.camera_embed.shape == (6, 64) and embed(model).isfinite().all()
    with pytest.raises(InputError, match="table of 6 cameras, 15 here"):
        load_weights(tiny_model(num_cameras=15), path, allow_skipped=False, unseen="mean")
