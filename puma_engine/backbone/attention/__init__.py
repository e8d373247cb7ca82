"""Attention over cached keys and values: kernels, CUDA graphs, and 8-bit products."""
