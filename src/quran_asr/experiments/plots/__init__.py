"""Curves as pictures and an HTML page."""
