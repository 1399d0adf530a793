"""The exact search against sorting all distances in numpy."""

import numpy as np
import pytest
import torch

from processor.search import exact
from processor.search.exact import exact_nearest
from utils.errors import InputError
from utils.metrics import l2_normalize


def brute_force(gallery, queries, top):
    dist = np.stack([np.sqrt(np.square(gallery.astype(np.float64) - query).sum(axis=1)) for query in queries])
    dist = dist.astype(np.float32)
    rows = np.argsort(dist, axis=1, kind="stable")[:, :top]
    return rows, np.take_along_axis(dist, rows, axis=1)


def features(number, width=32, seed=0):
    return l2_normalize(np.random.default_rng(seed).standard_normal((number, width), dtype=np.float32))


def assert_same(found, expected):
    assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


@pytest.fixture(params=[1, 7, 64, 10**6], ids=lambda rows: f"blocks of {rows}")
def block(request, monkeypatch):
    """Galleries are read in blocks of so many features, and queries compared three at a time."""
    monkeypatch.setattr(exact, "block_rows", lambda width: request.param)
    monkeypatch.setattr(exact, "_QUERIES", 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_and_distances_are_those_of_a_stable_sort(block, dtype):
    gallery, queries = features(200).astype(dtype), features(5, seed=1)
    for top in (1, 10, 199, 200, 500):
        assert_same(exact_nearest(gallery, queries, top), brute_force(gallery, queries, top))


@pytest.mark.parametrize("copies", [3, 40, 150])
def test_of_equal_ones_the_first_row_comes_first(block, copies):
    gallery = features(250)
    queries = np.concatenate([gallery[:2], features(2, seed=1)])
    places = np.random.default_rng(2).permutation(250)[:copies]
    gallery[places] = gallery[0]  # far more copies than neighbours that are asked for
    for top in (1, 2, 10):
        assert_same(exact_nearest(gallery, queries, top), brute_force(gallery, queries, top))


def test_neighbours_nearer_than_the_rounding_of_a_quick_pass_are_told_apart():
    rng = np.random.default_rng(3)
    query = l2_normalize(rng.standard_normal((1, 512)))
    gallery = (query + 1e-6 * rng.standard_normal((400, 512))).astype(np.float32)  # squares below float32's 1e-7
    assert_same(exact_nearest(gallery, query, 10), brute_force(gallery, query, 10))


def test_features_mapped_from_the_disk_are_only_read(tmp_path):
    gallery, queries = features(300).astype(np.float16), features(4, seed=1)
    np.save(tmp_path / "g.npy", gallery)
    content = (tmp_path / "g.npy").read_bytes()
    mapped = np.lib.format.open_memmap(tmp_path / "g.npy", mode="c")
    assert_same(exact_nearest(mapped, queries, 10, torch.device("cpu")), brute_force(gallery, queries, 10))
    assert (tmp_path / "g.npy").read_bytes() == content


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_features_that_are_not_finite_are_named(value):
    gallery = features(30)
    gallery[17, 3] = value
    with pytest.raises(InputError, match=r"the gallery holds nan or inf, or is too large to square: row 17 \(from 0\)"):
        exact_nearest(gallery, features(1), 3)
    with pytest.raises(InputError, match="a query holds nan or inf, or is too large to square: row 17"):
        exact_nearest(features(3), gallery, 3)
