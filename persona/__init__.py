"""persona: personalised, animatable Gaussian avatars from a single image."""

import os

# Before torch or numba start their thread pools: each spins while it waits, and on a few cores two
# spinning pools halve each other's speed (benchmarks/render.py: 120 to 57 ms of CPU time).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
