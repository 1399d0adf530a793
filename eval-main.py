"""Test TF-CLIP: python eval-main.py [--config_file F] [KEY VALUE ...], e.g. TEST.WEIGHT runs/mars/best.pth"""

import sys

from processor.run import eval_main

if __name__ == "__main__":
    sys.exit(eval_main(sys.argv[1:]))
