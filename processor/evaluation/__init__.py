"""Testing: from weights to features, rankings, scores and the files that show them."""

from processor.evaluation.attention import WHAT_IT_MEANS as WHAT_IT_MEANS
from processor.evaluation.attention import attention_pictures as attention_pictures
from processor.evaluation.attention import best_middle_worst as best_middle_worst
from processor.evaluation.attention import query_pictures as query_pictures
from processor.evaluation.attention_figure import Picture as Picture
from processor.evaluation.contact_sheet import BLUE as BLUE
from processor.evaluation.contact_sheet import GREEN as GREEN
from processor.evaluation.contact_sheet import GREY as GREY
from processor.evaluation.contact_sheet import RED as RED
from processor.evaluation.contact_sheet import SheetCell as SheetCell
from processor.evaluation.contact_sheet import draw_sheet as draw_sheet
from processor.evaluation.curves import draw_curves as draw_curves
from processor.evaluation.curves import read_history as read_history
from processor.evaluation.curves import save_curves as save_curves
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
