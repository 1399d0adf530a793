"""Testing: from weights to features, rankings, scores and the files that show them."""
