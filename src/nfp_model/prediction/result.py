"""The result of a prediction: the number, its parts and its reasons."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nfp_model.baselines import idle_compute_positions
from nfp_model.boundary import Boundary, near_free_boundary, saturated_baseline
from nfp_model.citations import Citation, gathered_citations
from nfp_model.curve import BoundForward, LatencyCurve
from nfp_model.kernels.counts import FloatArray
from nfp_model.operators import MODULES, Module, cache_bytes, weight_bytes
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec, MoEFFN
from nfp_model.workload import Workload

if TYPE_CHECKING:
    import sympy
    from matplotlib.axes import Axes

    from nfp_model.prediction.explanation import Explanation, OperatorReport


@dataclass(frozen=True)
class ModulePrediction:
    """One module of the forward judged on its own latency.

    Attributes
    ----------
    module : str
        ``projections``, ``attention``, ``dense_ffn``, ``moe_ffn``, ``head``, ``elementwise`` or ``collectives``.
    boundary : Boundary
        Near-free rule on the module's own curve.
    idle_compute_nfp : float
        What idle compute promises for the module [positions].
    baseline_latency_s, share : float
        Its time at the baseline [s], and the share of the forward [-].
    memory_slack_s, granularity_slack_s, latency_slack_s : float
        Compute that could hide under the memory stream; matrix time already paid for rows not yet used; fixed and serial
        time [s].
    binding : str
        What ends its near-free range, in words.
    """

    module: Module
    boundary: Boundary
    idle_compute_nfp: float
    baseline_latency_s: float
    share: float
    memory_slack_s: float
    granularity_slack_s: float
    latency_slack_s: float
    binding: str

    @property
    def nfp(self) -> int:
        """Near-free positions of the module alone [positions]."""
        return self.boundary.nfp

    @property
    def over_prediction(self) -> float:
        """Idle-compute NFP over NFP [-]; an upper bound where the boundary is censored."""
        return self.idle_compute_nfp / self.nfp


@dataclass(frozen=True)
class Prediction:
    """Near-free parallelism of one model on one GPU, and why.

    Attributes
    ----------
    hardware, model, workload : HardwareSpec, ModelSpec, Workload
        What was asked.
    forward : BoundForward
        Operators with kernels and constants.
    curve : LatencyCurve
        T(N) on a grid that holds both sides of every step.
    boundary : Boundary
        The near-free rule on the curve.
    warnings : tuple of str
        What a reader must know before using the number.

    Examples
    --------
    >>> from nfp_model import predict_nfp
    >>> p = predict_nfp("h100", "llama-3.1-8b")
    >>> 1 < p.nfp < p.idle_compute_nfp
    True
    """

    hardware: HardwareSpec
    model: ModelSpec
    workload: Workload
    forward: BoundForward
    curve: LatencyCurve
    boundary: Boundary
    warnings: tuple[str, ...]

    @property
    def nfp(self) -> int:
        """Positions per sequence at near-free latency [positions]; "at least" when :attr:`censored`."""
        return self.boundary.nfp

    @property
    def censored(self) -> bool:
        """The curve never left the tolerance up to ``max_positions``."""
        return self.boundary.censored

    @property
    def first_exit(self) -> int | None:
        """Smallest N that breaks the rule [positions]."""
        return self.boundary.first_exit

    @property
    def baseline(self) -> int:
        """N0 [positions]."""
        return self.boundary.baseline

    @property
    def baseline_latency_s(self) -> float:
        """T(N0) [s]."""
        return self.boundary.baseline_latency_s

    @property
    def backend(self) -> str:
        """Whose kernel rules and constants were used."""
        return self.forward.backend

    @property
    def calibration(self) -> str:
        """Names of the files the constants of GEMM, MoE and attention stand in."""
        pairs = zip(self.forward.uses, self.forward.bound, strict=True)
        names = dict.fromkeys(bound.calibration for _, bound in pairs if bound.kernel is not None)
        return ", ".join(names)

    def latency_s(self, positions: npt.ArrayLike) -> FloatArray:
        """T(N) at any positions [s]."""
        grid = np.atleast_1d(np.asarray(positions, dtype=np.int64))
        assert self.curve.refine is not None
        return self.curve.refine(grid, None)

    def latency_band_s(self, positions: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """(low, high) of T(N) at 80 %, from parameter covariance and residual scatter [s].

        Examples
        --------
        >>> from nfp_model import predict_nfp
        >>> p = predict_nfp("h100", "llama-3.1-8b")
        >>> low, high = p.latency_band_s([1, 16])
        >>> bool((low < p.latency_s([1, 16])).all() and (p.latency_s([1, 16]) < high).all())
        True
        """
        from nfp_model.uncertainty import forward_band

        grid = np.atleast_1d(np.asarray(positions, dtype=np.int64))
        return forward_band(self.forward, grid) if grid.size else (np.empty(0), np.empty(0))

    @cached_property
    def idle_compute_nfp(self) -> float:
        """What the idle-compute intuition promises from the same baseline [positions]."""
        return idle_compute_positions(self.forward.uses, self.hardware, self.workload, self.baseline)

    @property
    def over_prediction(self) -> float:
        """Idle-compute NFP over NFP [-]; an upper bound where the boundary is censored."""
        return self.idle_compute_nfp / self.nfp

    @cached_property
    def saturated(self) -> Prediction | None:
        """For MoE: the same prediction from the baseline at which every expert is touched; None for dense models.

        None too where that baseline lies beyond the positions searched.
        """
        baseline = saturated_positions(self.model, self.workload.batch_size)
        if baseline is None or baseline > self.curve.positions[-1]:
            return None
        if baseline == self.baseline:
            return self
        boundary = near_free_boundary(self.curve, self.boundary.tolerance, baseline)
        return Prediction(self.hardware, self.model, self.workload, self.forward, self.curve, boundary, self.warnings)

    @cached_property
    def operators(self) -> tuple[OperatorReport, ...]:
        """Every operator: kernel row, tile, padding, slacks at the baseline, growth up to the exit."""
        from nfp_model.prediction.explanation import operator_reports

        return operator_reports(self)

    @cached_property
    def modules(self) -> dict[str, ModulePrediction]:
        """Per-module predictions, in the order of the forward."""
        present = [module for module in MODULES if any(use.module == module for use in self.forward.uses)]
        return {module: self._module(module) for module in present}

    def _module(self, module: Module) -> ModulePrediction:
        curve = self.curve.module(module)
        boundary = near_free_boundary(curve, self.boundary.tolerance, self.baseline)
        reports = [report for report in self.operators if report.module == module]
        uses = [use for use in self.forward.uses if use.module == module]
        from nfp_model.prediction.explanation import binding_words

        return ModulePrediction(
            module=module,
            boundary=boundary,
            idle_compute_nfp=idle_compute_positions(uses, self.hardware, self.workload, self.baseline),
            baseline_latency_s=boundary.baseline_latency_s,
            share=boundary.baseline_latency_s / self.baseline_latency_s,
            memory_slack_s=sum(report.memory_slack_s for report in reports),
            granularity_slack_s=sum(report.granularity_slack_s for report in reports),
            latency_slack_s=sum(report.latency_slack_s for report in reports),
            binding=binding_words(self, boundary, module).sentence,
        )

    @property
    def binding(self) -> str:
        """What ends the near-free range, in words."""
        return self.explain().binding.sentence

    @cached_property
    def memory_needed_bytes(self) -> float:
        """Weights and cache one GPU must hold [B]."""
        parts = (self.model, self.workload, self.forward.uses)
        return weight_bytes(*parts) + cache_bytes(*parts)

    @property
    def fits_memory(self) -> bool:
        """Whether weights and cache fit one GPU's memory; working space is not counted."""
        return self.memory_needed_bytes <= self.hardware.memory_bytes

    @cached_property
    def band(self) -> tuple[int, int]:
        """(low, high) of NFP at 80 %, from parameter covariance and residual scatter [positions]."""
        from nfp_model.uncertainty import nfp_band

        return nfp_band(self.forward, self.curve, self.boundary)

    @cached_property
    def expression(self) -> sympy.Expr:
        """T at the boundary as SymPy: each operator's winning branch, counts held, hardware and constants symbolic."""
        from nfp_model.prediction.explanation import forward_expression

        return forward_expression(self)

    @cached_property
    def _explanation(self) -> Explanation:
        from nfp_model.prediction.explanation import explain_prediction

        return explain_prediction(self)

    @cached_property
    def citations(self) -> tuple[Citation, ...]:
        """The public references this prediction rests on: equations, kernel rows, constants, specs."""
        rows = [row for report in self.operators for row in (report.kernel, report.kernel_at_exit) if row is not None]
        kinds = {bound.winning_inputs(1)[0] for bound in self.forward.bound}
        fits = [bound.fit.data for bound in self.forward.bound]
        specs = [*self.hardware.sources.values(), self.model.source]
        return gathered_citations(kinds, [*(row.source for row in rows), *fits, *specs])

    def explain(self) -> Explanation:
        """Why the number is what it is: prints as text, ``.latex()`` gives the equations."""
        return self._explanation

    def to_dict(self) -> dict[str, Any]:
        """Everything a program needs, JSON-safe."""
        from nfp_model.prediction.panel import prediction_dict

        return prediction_dict(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Staircase of T(N) with the boundary and idle compute, by matplotlib."""
        from nfp_model.plotting import plot_prediction

        return plot_prediction(self, ax)

    def __str__(self) -> str:
        from nfp_model.prediction.panel import panel_text

        return panel_text(self)

    def _repr_html_(self) -> str:
        from nfp_model.prediction.panel import panel_html

        return panel_html(self)


def saturated_positions(model: ModelSpec, batch_size: int) -> int | None:
    """Smallest N at which every expert of every MoE layer is touched [positions]; None for a dense model."""
    experts = [ffn for ffn in model.ffn.values() if isinstance(ffn, MoEFFN)]
    return max((saturated_baseline(ffn.num_experts, ffn.top_k, batch_size) for ffn in experts), default=None)
