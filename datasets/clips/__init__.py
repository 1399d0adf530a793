"""Clips: which frames of a tracklet, how they are augmented, and in which batch they travel."""
