"""The parts of `experiments/bench/gpu.py`."""
