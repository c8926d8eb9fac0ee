"""Inference without torch: audio in, words out."""
