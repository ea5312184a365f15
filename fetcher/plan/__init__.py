"""Decisions: values in, values out. Clock and dice are arguments; no I/O, no await."""
