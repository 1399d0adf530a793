"""The config of a run: defaults, YAML files and command-line pairs, merged and checked."""

from configs.check import uses_weights_statistics as uses_weights_statistics
from configs.compare import changed_keys as changed_keys
from configs.defaults import get_cfg as get_cfg
from configs.errors import ConfigError as ConfigError
from configs.load import check_opts as check_opts
from configs.load import file_keys as file_keys
from configs.load import load_cfg as load_cfg
from configs.load import load_dumped_cfg as load_dumped_cfg
from configs.load import resolve_auto as resolve_auto
