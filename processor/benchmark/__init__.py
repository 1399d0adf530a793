"""How fast each part of a run is on this machine: python -m processor.benchmark."""
