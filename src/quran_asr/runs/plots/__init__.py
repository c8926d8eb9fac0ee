"""Curves as pictures and a page."""
