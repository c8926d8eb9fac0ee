"""What can go wrong, looked at before a training."""
