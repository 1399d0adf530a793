"""Tracklets -> features of a trained model, in Python and as files."""

from processor.extractor.extraction import extract_features as extract_features
from processor.extractor.extraction import opened_input as opened_input
from processor.extractor.extractor import FeatureExtractor as FeatureExtractor
from processor.extractor.table import FeatureTable as FeatureTable
from processor.extractor.table import check_rewritable as check_rewritable
from processor.extractor.table import load_table as load_table
from processor.extractor.table import save_table as save_table
