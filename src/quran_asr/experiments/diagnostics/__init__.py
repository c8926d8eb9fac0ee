"""Diagnosis of training curves."""
