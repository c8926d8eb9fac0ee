"""Many trials of one recipe, and what came of them."""
