"""Scores in, words and verses out: language models, beam searches, and the search of the Quran."""
