from model.build import build_model as build_model
from model.build import build_text_branch as build_text_branch
from model.build import check_model as check_model
from model.build import check_text as check_text
from model.build import pixel_statistics as pixel_statistics
from model.build import pretrained_path as pretrained_path
