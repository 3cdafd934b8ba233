"""A sweep's answer on paper: one page, its figures, and its trials as tables."""
