"""Repositories for NVIDIA Triton Inference Server, the server itself, and what stands before it."""
