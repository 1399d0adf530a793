"""The nearest tracklets in a file of features: python -m processor.search."""
