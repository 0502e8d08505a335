"""Where the Triton kernels of a test run: on CUDA, else in Triton's interpreter on the CPU."""

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MARKS = [pytest.mark.gpu] if DEVICE == "cuda" else []
"""Kernels' tests run in the interpreter without a GPU; with one they are ``make test-gpu``'s."""
pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch")
