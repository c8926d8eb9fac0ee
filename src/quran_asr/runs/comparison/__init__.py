"""Recipes, runs and reports set against each other."""
