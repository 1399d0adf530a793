"""Public data sets: one file each, from the lists on the disk to tracklets."""
