"""Files of features: a table, or one line that names the file."""

import numpy as np
import pytest

from processor.extractor import FeatureTable, load_table, save_table
from tests.fuzz.conftest import accepts
from tests.fuzz.mutations import altered_bytes


@pytest.mark.parametrize(("name", "altered"), [("f.npz", "f.npz"), ("f.npy", "f.npy"), ("f.npy", "f.npz")])
def test_files_of_features(fuzz, tmp_path, name, altered):
    """One of both files is altered where the features lie beside the rest."""
    features, texts = np.eye(3, 4, dtype=np.float32), np.array(["a", "b", "c"])
    table = FeatureTable(features, texts, np.ones(3, int), texts, texts, texts, "best.pth", "00", "MODEL: {}")
    save_table(tmp_path / name, table)
    if name == "f.npy":
        np.save(tmp_path / name, features)
    content = (tmp_path / altered).read_bytes()

    def work(content: bytes) -> bool:
        (tmp_path / altered).write_bytes(content)
        return accepts(load_table, tmp_path / name, names=(str(tmp_path / "f"),))

    fuzz(60, altered_bytes(content), work, child=True)
