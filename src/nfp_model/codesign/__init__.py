"""Co-design: what a change of chip or model would do to latency and near-free positions, and which change would be enough."""

from nfp_model.codesign.elasticities import sensitivities
from nfp_model.codesign.findings import Sensitivities, Sensitivity
from nfp_model.codesign.inverse import bandwidth_for, solve_for, tile_for
from nfp_model.codesign.solutions import Solution, Trial

__all__ = [
    "Sensitivities",
    "Sensitivity",
    "Solution",
    "Trial",
    "bandwidth_for",
    "sensitivities",
    "solve_for",
    "tile_for",
]
