"""Testing: from weights to features, rankings, scores and the files that show them."""

from processor.evaluation.evaluator import Evaluation as Evaluation
from processor.evaluation.evaluator import rank_tracklets as rank_tracklets
from processor.evaluation.html_report import Attention as Attention
from processor.evaluation.html_report import RunPage as RunPage
from processor.evaluation.html_report import SavedFeatures as SavedFeatures
from processor.evaluation.html_report import read_camera_pairs as read_camera_pairs
from processor.evaluation.html_report import read_features as read_features
from processor.evaluation.html_report import read_labels as read_labels
from processor.evaluation.html_report import read_protocol as read_protocol
from processor.evaluation.html_report import read_scores as read_scores
from processor.evaluation.html_report import write_page as write_page
from processor.evaluation.reports import log_table as log_table
from processor.evaluation.reports import scores_line as scores_line
from processor.evaluation.session import evaluate_one as evaluate_one
from processor.evaluation.session import evaluate_part as evaluate_part
from processor.evaluation.session import evaluate_several as evaluate_several
from processor.evaluation.session import report as report
from processor.evaluation.session import tested_model as tested_model
from processor.evaluation.tracklet_pass import means_of_loader as means_of_loader
from processor.evaluation.tracklet_pass import tracklet_means as tracklet_means
