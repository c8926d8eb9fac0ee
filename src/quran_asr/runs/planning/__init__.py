"""What a training will be, before it is one: size, memory, time, and what is amiss with its settings."""
