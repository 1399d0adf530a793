"""Drawn data sets in the layouts of the real ones: python -m datasets.synthetic."""

from datasets.synthetic.command import main as main
from datasets.synthetic.command import write_mars as write_mars
from datasets.synthetic.command import write_set as write_set
