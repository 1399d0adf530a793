"""Rows of the paper's tables, run and put into one table: python -m processor.ablation."""
