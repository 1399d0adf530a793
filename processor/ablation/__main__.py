"""python -m processor.ablation"""

import sys

from processor.ablation.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
