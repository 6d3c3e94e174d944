"""Sweeps: any argument or spec field as an axis; whole predictions, or operators over millions of points."""

from nfp_model.sweeping.operator_grid import OperatorSweep, sweep_operator
from nfp_model.sweeping.prediction_grid import SweepResult, iter_sweep, sweep
from nfp_model.sweeping.tables import write_csv

__all__ = ["OperatorSweep", "SweepResult", "iter_sweep", "sweep", "sweep_operator", "write_csv"]
