"""Sound in, words out, without torch."""
