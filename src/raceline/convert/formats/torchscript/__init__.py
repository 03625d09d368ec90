"""TorchScript: its graphs as a child process writes them, and their meaning in standard ONNX."""
