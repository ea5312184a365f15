"""The hot path against its rivals and against C, row by row."""
