"""Train TF-CLIP: python train-main.py [--config_file F] [--resume | --overwrite] [KEY VALUE ...]"""

import sys

if __name__ == "__main__":
    try:
        from processor.run import train_main
    except KeyboardInterrupt:  # while the first modules are being imported
        sys.exit(130)
    sys.exit(train_main(sys.argv[1:]))
