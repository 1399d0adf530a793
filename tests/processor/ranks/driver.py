"""train-main.py without dropout, which also writes the losses of each step: python driver.py LOSSES KEY VALUE ...

Adam divides a gradient by its size, and one that is zero but for rounding becomes a whole step; with a larger eps than
torch's such weights stay near those of another sum of the same numbers.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parents[3]))

import solver.build  # noqa: E402
from processor.run import eval_main, train_main  # noqa: E402
from utils.meters import Meters  # noqa: E402


def main(losses: Path, argv: list[str]) -> int:
    """Train, or with --test only test, and write one line of JSON for each step of rank 0."""
    nn.Dropout.forward = lambda self, values: values
    attend = nn.MultiheadAttention.forward

    def attend_to_all(self, *arguments, **options):
        self.dropout = 0.0
        return attend(self, *arguments, **options)

    nn.MultiheadAttention.forward = attend_to_all
    solver.build.Adam = partial(torch.optim.Adam, eps=1e-3)
    update = Meters.update

    def noted(self, scalars):
        if int(os.environ.get("RANK", "0")) == 0:
            with losses.open("a") as file:
                file.write(json.dumps({name: float(value) for name, value in scalars.items()}) + "\n")
        update(self, scalars)

    Meters.update = noted
    if argv[:1] == ["--test"]:
        return eval_main(argv[1:])
    return train_main(argv)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
