"""python -m processor.search"""

import sys

from processor.search.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
