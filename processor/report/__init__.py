"""The page of a finished run or test: python -m processor.report RUN."""
