"""What curves say while a training runs."""
