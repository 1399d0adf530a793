"""python -m processor.report"""

import sys

from processor.report.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
