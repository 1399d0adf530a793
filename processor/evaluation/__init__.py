"""Testing: from weights to features, rankings, scores and the files that show them."""

from processor.evaluation.contact_sheet import BLUE as BLUE
from processor.evaluation.contact_sheet import GREEN as GREEN
from processor.evaluation.contact_sheet import GREY as GREY
from processor.evaluation.contact_sheet import RED as RED
from processor.evaluation.contact_sheet import SheetCell as SheetCell
from processor.evaluation.contact_sheet import draw_sheet as draw_sheet
from processor.evaluation.evaluator import Evaluation as Evaluation
from processor.evaluation.evaluator import rank_tracklets as rank_tracklets
from processor.evaluation.reports import log_table as log_table
from processor.evaluation.reports import scores_line as scores_line
from processor.evaluation.session import evaluate_one as evaluate_one
from processor.evaluation.session import evaluate_part as evaluate_part
from processor.evaluation.session import evaluate_several as evaluate_several
from processor.evaluation.session import report as report
from processor.evaluation.tracklet_pass import means_of_loader as means_of_loader
from processor.evaluation.tracklet_pass import tracklet_means as tracklet_means
