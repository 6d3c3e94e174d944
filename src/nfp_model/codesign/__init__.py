"""Co-design: what a change of chip or model would do to latency and near-free positions, and which change would be enough."""

from nfp_model.codesign.elasticities import Sensitivities, Sensitivity, sensitivities
from nfp_model.codesign.inverse import Solution, bandwidth_for, solve_for, tile_for

__all__ = ["Sensitivities", "Sensitivity", "Solution", "bandwidth_for", "sensitivities", "solve_for", "tile_for"]
