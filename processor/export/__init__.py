"""A trained network as one ONNX or torch.export file that runs without this code: python -m processor.export."""
