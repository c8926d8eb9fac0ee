"""Speed of training and inference, compared with stock NeMo and sherpa-onnx."""
