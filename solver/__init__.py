from solver.build import build_lr_schedule as build_lr_schedule
from solver.build import build_optimizer as build_optimizer
from solver.optimizer import group_names as group_names
