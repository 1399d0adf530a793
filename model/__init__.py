from model.build import build_model as build_model
