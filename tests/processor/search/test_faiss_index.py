"""The index of a large gallery: recall, distances, and when the file beside the features is used again."""

import logging
import os

import numpy as np
import pytest

from processor.search import faiss_index
from processor.search.exact import exact_nearest
from processor.search.faiss_index import faiss_nearest
from utils.errors import InputError
from utils.metrics import l2_normalize

pytest.importorskip("faiss")


@pytest.fixture
def gallery():
    """1,000 people of four tracklets each."""
    rng = np.random.default_rng(0)
    people = rng.standard_normal((1000, 64))
    return l2_normalize(np.repeat(people, 4, axis=0) + 0.5 * rng.standard_normal((4000, 64))).astype(np.float16)


@pytest.fixture
def queries(gallery):
    rng = np.random.default_rng(1)
    return l2_normalize(gallery[::40] + 0.04 * rng.standard_normal((100, 64)))


def test_nearly_all_of_the_nearest_are_found_with_exact_distances(gallery, queries, tmp_path):
    rows, dist = faiss_nearest(gallery, queries, 4, tmp_path / "g.faiss")
    expected, expected_dist = exact_nearest(gallery, queries, 4)
    recall = np.mean([len(set(a) & set(b)) / 4 for a, b in zip(rows, expected)])
    assert recall >= 0.9 and (rows[:, 0] == expected[:, 0]).mean() >= 0.97
    same = rows == expected
    assert np.array_equal(dist[same], expected_dist[same]) and (np.diff(dist, axis=1) >= 0).all()


def test_wide_features_are_compared_in_full_width(tmp_path, monkeypatch):
    """Those that differ where the main directions do not look are told apart."""
    rng = np.random.default_rng(2)
    people = l2_normalize(rng.standard_normal((250, 8)) @ rng.standard_normal((8, 40)))
    wide = l2_normalize(np.repeat(people, 4, axis=0) + 0.01 * rng.standard_normal((1000, 40)))
    monkeypatch.setattr(faiss_index, "_DIRECTIONS", 8)
    rows, dist = faiss_nearest(wide, wide[:50], 4, tmp_path / "g.faiss")
    expected, expected_dist = exact_nearest(wide, wide[:50], 4)
    assert (rows == expected).mean() >= 0.95 and (dist == expected_dist).mean() >= 0.95
    assert len((tmp_path / "g.faiss").read_bytes()) < 1000 * 40  # 8 bytes per feature, a row number, centres


@pytest.mark.parametrize("count", [1, 30, 300])
def test_few_wide_features_are_all_found(tmp_path, count):
    gallery = l2_normalize(np.random.default_rng(3).standard_normal((count, 300)))
    rows, dist = faiss_nearest(gallery, gallery[:2], 10, tmp_path / "g.faiss")
    expected, expected_dist = exact_nearest(gallery, gallery[:2], 10)
    assert np.array_equal(rows, expected) and np.array_equal(dist, expected_dist)


def test_more_neighbours_than_the_probed_groups_hold_are_found(gallery, tmp_path):
    few = gallery[:300]
    rows, dist = faiss_nearest(few, few[:3].astype(np.float32), 500, tmp_path / "g.faiss")
    expected = exact_nearest(few, few[:3].astype(np.float32), 500)
    assert np.array_equal(rows, expected[0]) and np.array_equal(dist, expected[1])


def test_the_index_is_built_once_for_the_same_features(gallery, queries, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    file, npy = tmp_path / "g.faiss", tmp_path / "g.npy"
    np.save(npy, gallery)

    def builds(features) -> bool:
        caplog.clear()
        rows, _ = faiss_nearest(features, queries, 1, file)
        assert rows.shape == (100, 1)
        return "FAISS: index built in" in caplog.text

    assert builds(gallery) and not builds(gallery)
    assert builds(gallery[:-1]) and builds(gallery)
    os.utime(npy, ns=(1, 1))  # written again since
    assert builds(gallery) and not builds(gallery)
    other = gallery.copy()
    other[0] += 0.1
    assert builds(other)
    file.write_bytes(file.read_bytes()[:1000])
    assert builds(other)
    size = file.stat().st_size
    file.write_bytes(b"\0" * size)
    assert builds(other) and "is built again" in caplog.text
    monkeypatch.setattr(faiss_index, "_VERSION", 0)
    assert builds(other)


@pytest.mark.parametrize("name, content", [
    ("g.faiss", b"of another program"), ("g.faiss.json", b'{"another": "program"}'), ("g.faiss.json", b"\xff"),
])  # fmt: skip
def test_files_of_others_stay(gallery, queries, tmp_path, caplog, name, content):
    (tmp_path / name).write_bytes(content)
    rows, _ = faiss_nearest(gallery, queries, 1, tmp_path / "g.faiss")
    assert rows.shape == (100, 1) and {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: content}
    assert f"{name} exists and was not written by this command: move it; the index serves this" in caplog.text


def test_a_folder_that_cannot_be_written_costs_a_warning(gallery, queries, tmp_path, caplog):
    rows, _ = faiss_nearest(gallery, queries, 1, tmp_path / "no" / "g.faiss")
    assert "cannot be written" in caplog.text and "the index serves this search alone" in caplog.text
    assert np.array_equal(rows, faiss_nearest(gallery, queries, 1, tmp_path / "g.faiss")[0])


def test_features_that_are_not_finite_are_named(gallery, queries, tmp_path):
    gallery[17, 3] = np.nan
    with pytest.raises(InputError, match="holds nan or inf, or is too large to square: row "):
        faiss_nearest(gallery, queries, 1, tmp_path / "g.faiss")
    assert not list(tmp_path.iterdir())


def test_without_faiss_there_is_one_line(monkeypatch, gallery, queries, tmp_path):
    monkeypatch.setattr(faiss_index, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="--index faiss needs FAISS: pip install faiss-cpu, or take --index exact"):
        faiss_nearest(gallery, queries, 1, tmp_path / "g.faiss")
