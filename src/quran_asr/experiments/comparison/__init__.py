"""Comparison of recipes, runs and reports."""
