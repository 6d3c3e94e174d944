"""From measured curves to a calibration file: `nfp fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date as today
from pathlib import Path

import numpy as np

from nfp_model.errors import InvalidArgumentError, UnsupportedError
from nfp_model.kernels.routing import experts_touched
from nfp_model.specs.calibration import Calibration, Fit, HeldOutScore, OperatorKind
from nfp_model.specs.registry import load_hardware
from nfp_model.uncertainty import Z80
from nfp_model.validation.fit_files import write_calibration
from nfp_model.validation.fit_points import FitPoints, collect
from nfp_model.validation.fit_tables import LOADERS, MAX_TOKENS, FitTable, recorded_tables, setting, silicon_tables, without_l2
from nfp_model.validation.fitting import UNKNOWNS, ConstantsFit, _exact, fit_constants, rounded_covariance, significant
from nfp_model.validation.records import Curve
from nfp_model.validation.shapes import MoEShape
from nfp_model.validation.statistics import boundary_error, curve_mape, median_and_p90
