"""From recordings of Quran recitation to a trained, measured recognizer."""

__version__ = "0.1.0"
