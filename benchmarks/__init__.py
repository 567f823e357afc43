"""Benchmarks of lamella against PyTorch and ONNX Runtime: ``python -m benchmarks``."""
