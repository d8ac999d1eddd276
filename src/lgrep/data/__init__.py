"""Picture sources, pairings, views and the batches that methods consume."""
