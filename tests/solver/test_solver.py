"""Learning rates per parameter and per epoch, by hand."""

import pytest
import torch
from torch import nn

from configs import load_cfg
from model import build_model
from solver import build_lr_schedule, build_optimizer, group_names
from solver.lr_schedule import lr_factor
from solver.optimizer import parameter_groups
from tests.conftest import TINY_OPTIONS, tiny_options


def tiny_cfg(**overrides):
    return load_cfg(opts=tiny_options(**{"SOLVER__BASE_LR": "5e-6"} | overrides))


def rates(cfg) -> dict[str, float]:
    model = build_model(cfg, 5, 3)
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = build_optimizer(cfg, model)
    return {names[id(p)]: group["lr"] / 5e-6 for group in optimizer.param_groups for p in group["params"]}


def test_learning_rate_factors_multiply():
    factor = rates(tiny_cfg())
    assert factor["encoder.vit.blocks.0.attn.qkv.weight"] == pytest.approx(1)
    assert factor["encoder.vit.blocks.0.attn.qkv.bias"] == pytest.approx(2)
    assert factor["encoder.camera_embed"] == pytest.approx(1)
    assert factor["classifier_t.weight"] == pytest.approx(10)
    assert factor["classifier_g.weight"] == pytest.approx(1)
    assert factor["ssp.memory_proj.1.weight"] == pytest.approx(10)
    assert factor["ssp.memory_proj.1.bias"] == pytest.approx(20)
    assert factor["tmd.construction.fc.bias"] == pytest.approx(20)
    assert factor["neck_t.weight"] == pytest.approx(1)
    assert "neck_t.bias" not in factor  # frozen


def test_switches_take_their_factor_away():
    factor = rates(tiny_cfg(SOLVER__LARGE_FC_LR=False, SOLVER__LARGE_PROMPT_LR=False, SOLVER__BIAS_LR_FACTOR=3))
    assert set(round(value, 6) for value in factor.values()) == {1.0, 3.0}
    assert factor["ssp.memory_proj.1.bias"] == pytest.approx(3)


def test_every_trainable_parameter_is_in_exactly_one_group():
    cfg = tiny_cfg()
    model = build_model(cfg, 5, 3)
    grouped = [id(p) for group in build_optimizer(cfg, model).param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_adam_is_fused_and_has_l2_inside():
    cfg = tiny_cfg(SOLVER__WEIGHT_DECAY="0.01", SOLVER__WEIGHT_DECAY_BIAS="0.5")
    optimizer = build_optimizer(cfg, build_model(cfg, 5, 3))
    assert type(optimizer) is torch.optim.Adam
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.01, 0.5}
    assert all(group["fused"] is True for group in optimizer.param_groups)


def test_a_pattern_that_matches_no_trainable_parameter_is_an_error():
    linear = nn.Linear(2, 2)
    linear.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"match no parameter: \['\^prompts_generator\\\\.', 'bias'\]"):
        parameter_groups(linear, 1.0, {"bias": 2.0, r"^prompts_generator\.": 10.0, "weight": 2.0}, 0.0, 0.0)


def test_schedule_of_the_paper():
    """Warm-up 0.1 ... 0.91 over epochs 0..9, 1 from epoch 10, x0.1 at 30, 50, 70."""
    expected = [0.1, 0.19, 0.28, 0.37, 0.46, 0.55, 0.64, 0.73, 0.82, 0.91, 1.0, 1.0]
    assert [lr_factor(e, 10, 0.1, [30, 50, 70], 0.1) for e in range(12)] == pytest.approx(expected)
    milestones = {29: 1, 30: 0.1, 49: 0.1, 50: 0.01, 69: 0.01, 70: 0.001, 79: 0.001}
    for epoch, factor in milestones.items():
        assert lr_factor(epoch, 10, 0.1, [30, 50, 70], 0.1) == pytest.approx(factor)
    assert lr_factor(0, 0, 0.1, [], 0.1) == 1


def test_scheduler_steps_once_per_epoch_and_keeps_the_ratios():
    cfg = load_cfg(opts=[part for k, v in TINY_OPTIONS.items() if "SOLVER" not in k for part in (k, v)]
                   + ["SOLVER.IMS_PER_BATCH", "4"])  # fmt: skip
    optimizer = build_optimizer(cfg, build_model(cfg, 5, 3))
    schedule = build_lr_schedule(cfg, optimizer)
    base = min(group["lr"] for group in optimizer.param_groups)
    assert base == pytest.approx(5e-6 * 0.1)
    ratios = [group["lr"] / base for group in optimizer.param_groups]
    for epoch in range(1, 31):
        optimizer.step()
        schedule.step()
        rate = 5e-6 * lr_factor(epoch, 10, 0.1, [30, 50, 70], 0.1)
        assert [group["lr"] / rate for group in optimizer.param_groups] == pytest.approx(ratios)


def test_a_warm_up_longer_than_the_run_is_said(caplog):
    """Not refused: a trial of one epoch keeps the other keys of its recipe."""
    for epochs, warmup, said in ((1, 10, True), (10, 10, False)):
        caplog.clear()
        cfg = tiny_cfg(SOLVER__MAX_EPOCHS=epochs, SOLVER__WARMUP_EPOCHS=warmup)
        build_lr_schedule(cfg, torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR))
        warning = "SOLVER.WARMUP_EPOCHS 10 is more than SOLVER.MAX_EPOCHS 1: SOLVER.BASE_LR is not reached"
        assert [record.getMessage() for record in caplog.records] == [warning] * said


def names_of_groups(**overrides) -> dict[str, float]:
    """Name of each group -> its factor."""
    cfg = tiny_cfg(**overrides)
    model = build_model(cfg, 5, 3)
    groups = build_optimizer(cfg, model).param_groups
    names = group_names(model, groups)
    assert len(set(names)) == len(groups)
    return {name: round(group["lr"] / 5e-6, 6) for name, group in zip(names, groups)}


def test_groups_are_named_by_the_parts_and_the_kind_of_their_weights():
    large = {"classifier_t-ssp-tmd_weights": 10, "ssp-tmd_biases": 20}
    assert names_of_groups() == {"encoder_weights": 1, "encoder_biases": 2} | large
    same = names_of_groups(SOLVER__BIAS_LR_FACTOR=1)
    assert same == {"encoder_weights-biases": 1, "classifier_t-ssp-tmd_weights-biases": 10}
    assert names_of_groups(SOLVER__BIAS_LR_FACTOR=10)["encoder_weights-biases"] == 10
