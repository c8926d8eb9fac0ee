"""A training packed for a host without a network."""
