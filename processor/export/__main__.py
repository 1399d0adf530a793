"""python -m processor.export"""

import sys

from processor.export.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
