"""Evaluation data sets: one module each, found by themselves; `base` has the registry."""
