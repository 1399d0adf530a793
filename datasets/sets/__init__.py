"""Parsers of the public data sets, one module each: from the files on disk to tracklets."""
