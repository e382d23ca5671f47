"""Model files are not trusted: read strictly, and their cost bounded, before ONNX Runtime sees them."""
