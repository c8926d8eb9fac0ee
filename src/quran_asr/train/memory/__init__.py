"""Batches that fit, and what to do when one does not."""
