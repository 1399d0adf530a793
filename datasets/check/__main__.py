"""python -m datasets.check"""

import sys

from datasets.check.command import main

if __name__ == "__main__":  # spawned processes import this file too
    sys.exit(main(sys.argv[1:]))
