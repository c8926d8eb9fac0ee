"""The plan of a training: size, memory, time, and faults of its settings."""
