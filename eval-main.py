"""Test TF-CLIP: python eval-main.py [--config_file F] [KEY VALUE ...], e.g. TEST.WEIGHT runs/mars/best.pth"""

import sys

if __name__ == "__main__":
    try:
        from processor.run import eval_main
    except KeyboardInterrupt:  # while the first modules are being imported
        sys.exit(130)
    sys.exit(eval_main(sys.argv[1:]))
