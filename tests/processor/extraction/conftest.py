"""What the tests of extraction share: an extractor of the tiny run, and what its test computed."""

import numpy as np
import pytest

from datasets import load_splits
from processor.extractor import FeatureExtractor
from utils.metrics import l2_normalize


@pytest.fixture(scope="session")
def extractor(trained_run):
    return FeatureExtractor.from_checkpoint(trained_run / "best.pth", device="cpu")


@pytest.fixture(scope="session")
def tested(trained_run, tiny_mars):
    """(tracklets, names of their cameras, features that the run's own test computed, normalised)."""
    splits = load_splits("MARS", str(tiny_mars))
    tracklets = splits.query + splits.gallery
    features = np.load(trained_run / "features.npz")["features"]
    return tracklets, [splits.camera(t.camid) for t in tracklets], l2_normalize(features)
