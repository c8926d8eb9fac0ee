"""Recipes: schema, YAML with line numbers, overrides, validation, schedules, model size."""
