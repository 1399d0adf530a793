"""What is wrong with a data set, before a run finds out: python -m datasets.check."""

from datasets.check.command import main as main
