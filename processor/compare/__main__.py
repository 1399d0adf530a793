"""python -m processor.compare"""

import sys

from processor.compare.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
