"""Scores in, words and verses out: the search for the place in the Quran."""
