"""Notebook 07 reads NVIDIA's published timings; where that package cannot be installed (Python 3.14) it is left out by name."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("aiconfigurator_core") else ["07-calibrate-my-own-gpu.ipynb"]
