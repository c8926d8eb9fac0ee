"""Inference without torch: audio in, words out."""

import os

# Read when onnxruntime is imported: it would write an identity of the device and ask for a server.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
