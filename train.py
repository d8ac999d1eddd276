"""Train a method: `python train.py +experiment=stablerep_emoji optimizer.base_lr=1e-3`."""

import sys

from lgrep.cli import run
from lgrep.training.fit import train
from lgrep.training.resolve import resolve

USAGE = """usage: python train.py [+experiment=NAME] [group=choice ...] [key=value ...]

  python train.py                                   the embedded demo (StableRep on emoji, minutes on a laptop)
  python train.py +experiment=simclr_emoji seed=1   a recipe with one setting changed
  python train.py method=simclr pairing=self data=folder data.root=PICTURES duration.epochs=100
  python train.py -m seed=1,2 method.temperature=0.05,0.1   every combination, then a table and a plot
  python train.py --experiments                     the recipes, one line each

Every run writes one folder below runs/; the same command continues a run that was stopped.
resume=never starts again, debug=true shows the traceback of an error.
"""

if __name__ == "__main__":
    sys.exit(run("train", USAGE, train, demo="stablerep_emoji", check=resolve))
