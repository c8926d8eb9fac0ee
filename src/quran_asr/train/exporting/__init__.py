"""A trained model as a bundle, and for sherpa-onnx."""
