"""Pictures by matplotlib, imported when drawn: labelled with units, readable in print, safe for colour-blind readers."""

from nfp_model.plotting.maps import plot_map, plot_over_prediction
from nfp_model.plotting.roofline import plot_roofline
from nfp_model.plotting.slacks import plot_sensitivities, plot_slacks
from nfp_model.plotting.staircase import plot_prediction
from nfp_model.plotting.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, YELLOW, new_axes

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "SKY",
    "VERMILION",
    "YELLOW",
    "new_axes",
    "plot_map",
    "plot_over_prediction",
    "plot_prediction",
    "plot_roofline",
    "plot_sensitivities",
    "plot_slacks",
]
