"""Where tests run Triton kernels: on CUDA if there is a GPU, else in Triton's interpreter."""

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MARKS = [pytest.mark.gpu] if DEVICE == "cuda" else []
"""With a GPU, tests of kernels belong to ``make test-gpu``; without one they run on the CPU."""
pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch")
