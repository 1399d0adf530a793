"""The first stage of the text baseline on toy features of separable identities."""

import logging
import math
from dataclasses import replace

import pytest
import torch

from model.text_encoder import TextSizes, create_text_tower
from model.text_prompt import TextBranch, TextPrompts
from processor.distributed import Ranks
from processor.runtime import Runtime
from processor.training import text_stage
from processor.training.text_stage import TextRecipe, all_text_features, cosine_schedule, learn_text_features
from tests.tolerance import assert_close
from utils.errors import NonFiniteLossError

pytest.importorskip("open_clip")
CPU = torch.device("cpu")
NUM_CLASSES, EMBED = 5, 32
LONGEST_SUM = 4 * 64  # of the tower, in the second layer of its MLP
RECIPE = TextRecipe(
    epochs=12, batch_size=8, base_lr=1e-2, min_lr=1e-6, warmup_epochs=2, warmup_lr=1e-3, weight_decay=1e-4, seed=7
)


def build():
    """The same tower and prompts at every call."""
    torch.manual_seed(0)
    tower = create_text_tower(TextSizes(64, 2, 1, EMBED))
    return TextBranch(tower, TextPrompts(tower, NUM_CLASSES))


def learn(features, pids, branch=None, dtype=None, **recipe):
    """`learn_text_features` on the CPU with changes to RECIPE."""
    runtime = Runtime(CPU, dtype, torch.nn.Identity())
    return learn_text_features(branch or build(), features, pids, replace(RECIPE, **recipe), runtime)


def toy_features(per_class=4):
    """Tracklets around one random centre per identity: (n, E), (n,)."""
    torch.manual_seed(3)
    pids = torch.arange(NUM_CLASSES).repeat(per_class)
    centres = torch.nn.functional.normalize(torch.randn(NUM_CLASSES, EMBED), dim=1)
    return 3 * centres[pids] + 0.1 * torch.randn(len(pids), EMBED), pids


def test_the_loss_falls_and_each_text_is_nearest_to_its_tracklets(caplog):
    features, pids = toy_features(per_class=4)
    with caplog.at_level(logging.INFO):
        texts = learn(features, pids, epochs=25, batch_size=20)
    logged = [record.args for record in caplog.records if "text prompts" in record.message]
    losses = [loss for _, _, loss, _ in logged]
    assert [epoch for epoch, *_ in logged] == [1, 10, 20, 25]
    # All tracklets are one batch: each anchor shares its softmax among four positives, so the loss ends at 2 ln 4.
    assert losses == sorted(losses, reverse=True) and losses[0] > 8
    assert 2 * math.log(4) < losses[-1] < 2 * math.log(4) + 0.1
    assert texts.shape == (NUM_CLASSES, EMBED) and texts.dtype is torch.float32
    assert torch.equal((features @ texts.T).argmax(dim=1), pids)
    assert torch.equal(pids[(texts @ features.T).argmax(dim=1)], torch.arange(NUM_CLASSES))


def test_only_the_context_changes():
    features, pids = toy_features()
    branch = build()
    before = {name: value.clone() for name, value in branch.state_dict().items()}
    learn(features, pids, branch, epochs=2)
    after = branch.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["prompts.context"]
    assert (after["prompts.context"] != before["prompts.context"]).flatten(1).any(dim=1).all()


def test_the_same_seed_gives_the_same_texts_whatever_else_draws_numbers():
    features, pids = toy_features()
    results = []
    for noise, seed in ((1, 7), (2, 7), (1, 8)):
        branch = build()
        torch.manual_seed(noise)
        results.append(learn(features, pids, branch, epochs=2, seed=seed))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_four_steps_against_a_plain_adam_loop():
    """One tracklet per identity and one batch per epoch: the loss is torch's cross-entropy both ways."""
    features, pids = toy_features(per_class=1)
    texts = learn(features, pids, epochs=4, warmup_epochs=1, weight_decay=2.0)
    branch = build()
    optimizer = torch.optim.Adam([branch.prompts.context], weight_decay=2.0)
    for lr in (1e-6 + (1e-2 - 1e-6) * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in (1, 2, 3, 4)):
        optimizer.param_groups[0]["lr"] = lr
        products = features @ branch(pids).T  # (C, C)
        loss = torch.nn.functional.cross_entropy(products, pids) + torch.nn.functional.cross_entropy(products.T, pids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_close(texts, branch(pids), LONGEST_SUM, passes=4 * 3)


def test_every_tracklet_is_seen_once_per_epoch(monkeypatch):
    features, pids = toy_features()
    seen = []

    def spy(anchors, anchor_pids, others, other_pids):
        seen.append((anchors.detach().clone(), anchor_pids))
        return (anchors * others).sum() * 0.0

    monkeypatch.setattr(text_stage, "supervised_contrastive", spy)
    learn(features, pids, epochs=2, batch_size=6)
    images = seen[::2]  # tracklets as anchors; the others have texts as anchors
    assert [len(rows) for rows, _ in images] == [6, 6, 6, 2] * 2
    drawn = [(row.tolist(), int(label)) for rows, labels in images for row, label in zip(rows, labels)]
    tracklets = sorted((row.tolist(), int(pid)) for row, pid in zip(features, pids))
    assert sorted(drawn[:20]) == sorted(drawn[20:]) == tracklets and drawn[:20] != drawn[20:]


def test_learning_rate_per_epoch_by_hand():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=3.5e-4)
    schedule = cosine_schedule(optimizer, replace(RECIPE, epochs=120, warmup_epochs=5, warmup_lr=1e-5))
    rates = []
    for epoch in range(1, 121):
        schedule.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:4] == pytest.approx([7.8e-5, 1.46e-4, 2.14e-4, 2.82e-4])
    assert rates[4] == pytest.approx(1e-6 + 3.49e-4 * (1 + math.cos(math.pi / 24)) / 2)  # epoch 5 of 120
    assert rates[59] == pytest.approx(1.755e-4)  # half way between 3.5e-4 and 1e-6
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[-1] == pytest.approx(1e-6)


@torch.no_grad()
def test_features_of_all_identities_do_not_depend_on_the_batches():
    branch = build()
    texts = all_text_features(branch, 2, Runtime(CPU, None, torch.nn.Identity()))
    assert_close(texts, branch(torch.arange(NUM_CLASSES)), LONGEST_SUM)


def test_mixed_precision_learns_too():
    features, pids = toy_features()
    exact = learn(features, pids)
    for dtype in (torch.bfloat16, torch.float16):
        texts = learn(features, pids, dtype=dtype)
        assert texts.dtype is torch.float32 and not torch.equal(texts, exact)
        assert torch.equal((features @ texts.T).argmax(dim=1), pids), dtype


def test_in_half_precision_the_loss_is_scaled_and_steps_that_overflow_are_left_out(monkeypatch):
    scales, branch = [], build()
    update = torch.amp.GradScaler.update
    monkeypatch.setattr(
        torch.amp.GradScaler, "update", lambda scaler: (update(scaler), scales.append(scaler.get_scale()))
    )
    learn(*toy_features(), branch, torch.float16, epochs=3)
    assert scales[0] < 65536 and scales[-1] == scales[-2] > 1  # it starts too high for these gradients and settles
    assert torch.isfinite(branch.prompts.context).all()


def test_features_of_inference_mode_are_taken_and_the_result_may_be_trained_with():
    features, pids = toy_features()
    with torch.inference_mode():
        features = features * 1.0
    texts = learn(features, pids, epochs=1)
    query = torch.randn(2, EMBED, requires_grad=True)
    (query @ texts.T).sum().backward()  # autograd refuses tensors of inference mode
    assert not texts.requires_grad and not texts.is_inference()
    assert_close(query.grad[0], texts.sum(dim=0), NUM_CLASSES)


def test_a_loss_that_is_not_finite_stops_the_stage():
    features, pids = toy_features()
    features[3] = float("nan")
    with pytest.raises(NonFiniteLossError, match="text prompts is not finite in epoch 1; lower SOLVER.TEXT.BASE_LR"):
        learn(features, pids)


@pytest.mark.parametrize("wrong", [torch.zeros(20, dtype=torch.long), torch.arange(20) % 6])
def test_labels_must_name_every_identity(wrong):
    features, _ = toy_features()
    with pytest.raises(ValueError, match="labels of the tracklets are not 0..4"):
        learn(features, wrong)


def test_ctrl_c_is_heard_between_steps(monkeypatch):
    steps = []

    def stop_at_the_third(_ranks):
        steps.append(len(steps))
        if len(steps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Ranks, "check_stop", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        learn(*toy_features(), batch_size=4)
    assert len(steps) == 3
