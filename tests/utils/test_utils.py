"""Random state, meters, group means, tables, log file, number type."""

import logging
import random

import numpy as np
import pytest
import torch

from utils.errors import InputError
from utils.files import save_csv
from utils.group_means import GroupMeans
from utils.logger import close_logging, log_to_file, setup_logging
from utils.meters import Meters
from utils.precision import amp_dtype, autocast
from utils.seed import get_rng_state, seed_everything, set_rng_state

CPU = torch.device("cpu")


@pytest.fixture
def logging_restored():
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield root
    close_logging()
    root.setLevel(level)
    assert root.handlers == handlers


def test_a_table_takes_rows_with_and_without_names(tmp_path):
    save_csv(tmp_path / "a.csv", ["x", "y"], [{"y": 2}, [3, "a,b"], {"x": "\udcff"}], errors="backslashreplace")
    assert (tmp_path / "a.csv").read_bytes() == b'x,y\n,2\n3,"a,b"\n\\udcff,\n'


def draws() -> list[float]:
    # An odd number of normals leaves Python and NumPy with a second one in store, which is part of the state.
    normals = [random.gauss(0, 1), float(np.random.normal()), torch.randn(1).item()]
    return [*normals, random.random(), float(np.random.rand()), torch.rand(1).item()]


def test_a_restored_random_state_goes_on_with_the_same_numbers():
    seed_everything(5)
    draws()
    state = get_rng_state()
    ahead = draws()
    draws()
    set_rng_state(state)
    assert draws() == ahead


def test_a_seed_fixes_all_three_generators_and_another_seed_changes_all():
    runs = []
    for seed in (5, 5, 6):
        seed_everything(seed)
        runs.append(draws())
    assert runs[0] == runs[1]
    assert all(a != b for a, b in zip(runs[0], runs[2]))


def test_meters_give_means_over_steps_by_name_without_keeping_gradients():
    meters = Meters()
    assert meters.means() == {}
    meters.update({"id": torch.tensor(1.0), "total": torch.tensor(4.0, requires_grad=True)})
    meters.update({"total": torch.tensor(5.0, requires_grad=True), "id": torch.tensor(2.0)})
    assert meters.means() == {"id": 1.5, "total": 4.5}
    assert not meters.sums.requires_grad
    with pytest.raises(ValueError, match="are not"):
        meters.update({"id": torch.tensor(1.0), "c": torch.tensor(1.0)})


def test_meters_do_not_lose_small_terms_in_a_long_epoch():
    meters = Meters()
    meters.update({"x": torch.tensor(2.0**26)})
    for _ in range(3):
        meters.update({"x": torch.tensor(1.0)})
    assert meters.means()["x"] * 4 == 2.0**26 + 3


def test_group_means_are_the_same_in_any_order_and_batching():
    # Group 0: rows (1, 10), (3, 30); group 1: (5, 0); group 2: (0, 3), (6, 0), (0, 0), (2, 1).
    rows = torch.tensor([[1, 10], [5, 0], [0, 3], [3, 30], [6, 0], [0, 0], [2, 1]], dtype=torch.float32)
    groups = torch.tensor([0, 1, 2, 0, 2, 2, 2])
    for order, batch in ((torch.arange(7), 7), (torch.arange(7).flip(0), 2), (torch.tensor([3, 6, 0, 2, 5, 1, 4]), 3)):
        means = GroupMeans(3)
        with pytest.raises(ValueError, match="one of 3 groups has had no row"):
            means.means()
        for part in order.split(batch):
            means.add(rows[part], groups[part])
        assert means.means().tolist() == [[2, 20], [5, 0], [2, 1]]


def test_group_means_of_half_precision_rows_are_float32():
    means = GroupMeans(2)
    for _ in range(4):
        means.add(torch.full((1024, 1), 1.5, dtype=torch.bfloat16), torch.zeros(1024, dtype=torch.long))
    with pytest.raises(ValueError, match="no row"):
        means.means()
    means.add(torch.ones(1, 1), torch.tensor([1]))
    assert means.means().dtype == torch.float32 and means.means().tolist() == [[1.5], [1]]


def test_messages_before_the_file_reach_it_in_order_and_once(tmp_path, logging_restored):
    setup_logging()
    for number in range(3):
        logging.getLogger("datasets.sets.mars").info("early %d", number)
    log_to_file(tmp_path / "train_log.txt")
    logging.getLogger("processor.run").warning("late – ü")
    close_logging()
    logging.getLogger("processor.run").warning("after the end")
    lines = (tmp_path / "train_log.txt").read_text(encoding="utf-8").splitlines()
    kinds = ["INFO datasets.sets.mars: early 0", "INFO datasets.sets.mars: early 1", "INFO datasets.sets.mars: early 2"]
    assert [line.split(" ", 2)[2] for line in lines] == [*kinds, "WARNING processor.run: late – ü"]


def test_a_second_setup_doubles_no_line_on_screen_and_append_keeps_the_old_log(tmp_path, logging_restored, capsys):
    for append in (False, True):
        setup_logging()
        logging.getLogger("x").info("run %s", append)
        log_to_file(tmp_path / "log.txt", append=append)
    assert capsys.readouterr().out.splitlines() == ["run False", "run True"]
    close_logging()
    assert [line[-9:].split()[-1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["False", "True"]


@pytest.mark.parametrize(("choice", "dtype"), [("auto", None), ("off", None), ("bf16", torch.bfloat16)])
def test_number_type_on_the_cpu_where_fp16_is_refused(choice, dtype):
    assert amp_dtype(choice, CPU) is dtype
    with autocast(CPU, dtype):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (dtype or torch.float32)
    with pytest.raises(InputError, match="SOLVER.AMP fp16 needs a GPU"):
        amp_dtype("fp16", CPU)
