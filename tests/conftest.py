"""Shared fixtures. CI sets ``NFP_REQUIRE_SILICON`` so that a missing data package fails instead of skipping."""

from __future__ import annotations

import importlib.util
import os

import pytest
from hypothesis import settings

# Shared machines stall; a slow example says nothing about the algebra it checks.
settings.register_profile("nfp", deadline=None)
settings.load_profile("nfp")

SILICON = importlib.util.find_spec("aiconfigurator_core") is not None


def _cuda_present() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, by name, what this machine cannot run; never the silicon tests where they are required."""
    gpu = any("gpu" in item.keywords for item in items) and _cuda_present()
    for item in items:
        if "silicon" in item.keywords and not SILICON and not os.environ.get("NFP_REQUIRE_SILICON"):
            item.add_marker(pytest.mark.skip(reason='needs the silicon extra: pip install "nfp-model[silicon]"'))
        if "gpu" in item.keywords and not gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _headless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.delenv("NFP_MODEL_SPECS", raising=False)
