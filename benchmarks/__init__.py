"""Measuring programs and their results. Run them from a clone; the wheel does not include them."""
