from loss.build import build_criterion as build_criterion
