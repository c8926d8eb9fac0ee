"""Export of a trained model: ONNX bundle, sherpa-onnx."""
