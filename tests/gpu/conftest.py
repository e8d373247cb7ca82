"""Tests that need an NVIDIA GPU (`make test-gpu`); without one they are not even collected.

TRITON_INTERPRET=1 runs the kernels' tests on a CPU where the package triton is installed.
"""

import importlib.util
import os

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton")

if INTERPRETED:
    collect_ignore = ["test_graphed_steps.py", "test_compiled_layers.py"]
elif not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]
