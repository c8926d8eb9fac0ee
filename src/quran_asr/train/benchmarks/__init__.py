"""Training and listening timed side by side with others."""
