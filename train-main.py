"""Train TF-CLIP: python train-main.py [--config_file F] [--resume | --overwrite] [KEY VALUE ...]"""

import sys

from processor.run import train_main

if __name__ == "__main__":
    sys.exit(train_main(sys.argv[1:]))
