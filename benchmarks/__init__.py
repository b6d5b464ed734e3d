"""Programs that measure, and what they found: run from a clone, not part of the wheel."""
