"""From pictures to classes: decoding, batching, ONNX Runtime."""
