"""The page of a run: scores, curves, ranked lists with their pictures, in one HTML file."""

from processor.evaluation.html_report.page import Attention as Attention
from processor.evaluation.html_report.page import Changes as Changes
from processor.evaluation.html_report.page import RunPage as RunPage
from processor.evaluation.html_report.page import write_page as write_page
from processor.evaluation.html_report.run_files import SavedFeatures as SavedFeatures
from processor.evaluation.html_report.run_files import read_camera_pairs as read_camera_pairs
from processor.evaluation.html_report.run_files import read_features as read_features
from processor.evaluation.html_report.run_files import read_labels as read_labels
from processor.evaluation.html_report.run_files import read_protocol as read_protocol
from processor.evaluation.html_report.run_files import read_ranks as read_ranks
from processor.evaluation.html_report.run_files import read_scores as read_scores
