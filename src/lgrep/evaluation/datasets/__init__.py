"""Labelled data sets that models are measured on; `catalogue` opens them by name."""
