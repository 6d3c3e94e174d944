"""nfp_model: how many decode positions one LLM forward processes at near-free latency, and why.

Names load on first use, so importing the package costs little; ``nfp_model.h100`` and every other shipped spec or alias is an
attribute too.

Examples
--------
>>> from nfp_model import predict_nfp, h100, mixtral
>>> predict_nfp(h100, mixtral).model.title
'Mixtral-8x7B-v0.1'
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "nfp_model.prediction": (
        "Prediction", "ModulePrediction", "predict_nfp", "latency_curve", "idle_compute_nfp", "operator_latency",
    ),
    "nfp_model.prediction.closed": ("principle",),
    "nfp_model.scheduling": ("block_costs", "schedule"),
    "nfp_model.sweeping": ("sweep", "sweep_operator"),
    "nfp_model.codesign": ("sensitivities", "solve_for"),
    "nfp_model.operators": ("Attention", "FusedMoE", "Gemm"),
    "nfp_model.boundary": ("Boundary", "near_free_boundary"),
    "nfp_model.curve": ("LatencyCurve",),
    "nfp_model.specs.registry": ("load_hardware", "load_model"),
    "nfp_model.specs.hardware": ("HardwareSpec",),
    "nfp_model.specs.model": ("ModelSpec",),
    "nfp_model.specs.huggingface": ("from_hf_config",),
    "nfp_model.errors": ("NfpModelError",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    elif name.startswith("_"):
        raise AttributeError(f"module 'nfp_model' has no attribute '{name}'")
    else:
        value = _spec_called(name)
    globals()[name] = value
    return value


def _spec_called(name: str) -> Any:
    """A shipped hardware or model spec as an attribute."""
    from nfp_model.errors import UnknownNameError
    from nfp_model.specs.registry import load_hardware, load_model

    for load in (load_hardware, load_model):
        try:
            return load(name)
        except UnknownNameError:
            continue
    raise AttributeError(f"module 'nfp_model' has no attribute or spec '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
