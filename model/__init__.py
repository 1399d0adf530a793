from model.build import build_model as build_model
from model.build import check_model as check_model
