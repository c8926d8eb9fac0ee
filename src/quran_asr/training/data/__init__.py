"""From segments to the padded batches of an epoch."""
