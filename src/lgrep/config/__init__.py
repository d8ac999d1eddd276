"""Typed configuration: composition, schema, checks and construction."""
