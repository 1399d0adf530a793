"""Training: one run from CLIP-Memory over epochs to the final test."""
