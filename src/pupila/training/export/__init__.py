"""From a trained network to a model file: ONNX graph, int8 quantisation, parity check."""
