"""Fitted constants, apart from every datasheet field: what they are, what they were fitted on, how sure they are."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from nfp_model.errors import SpecError
from nfp_model.quantities import ELEMENT_TYPES
from nfp_model.specs.base import Spec
from nfp_model.specs.registry import load_spec, spec_files, spec_roots

OperatorKind = Literal[
    "gemm", "moe", "attention", "latent_attention", "csa_block", "hca_block", "elementwise", "linear_scan", "collective"
]  # fmt: skip


class GemmConstants(Spec):
    """Constants of the dense GEMM equation (cost model, section 2).

    Attributes
    ----------
    fixed_time_s : float
        t0 [s].
    memory_efficiency, matrix_efficiency : float
        eb, ef: shares of the datasheet bandwidth and dense peak a saturated kernel reaches [-].
    overlap_exponent : float
        p: how sharply memory and matrix time overlap; large means max() [-].
    chain_time_s : float
        kc: serial time of one CTA per element of k [s].
    split_time_s : float
        ts: second kernel or reduction of split-K [s].
    reread_share : float
        r: share of the weights each further row tile reads again, where one tile is given for every M; on Hopper also the slowing
        by idle rows [-].
    """

    fixed_time_s: float = Field(ge=0)
    memory_efficiency: float = Field(gt=0, le=1.5)
    matrix_efficiency: float = Field(gt=0, le=1.5)
    overlap_exponent: float = Field(ge=1)
    chain_time_s: float = Field(ge=0)
    split_time_s: float = Field(ge=0)
    reread_share: float = Field(default=0.0, ge=0, le=1)


class MoEConstants(Spec):
    """Constants of the fused MoE equation (cost model, section 3).

    Attributes
    ----------
    fixed_time_s : float
        t0: routing, permutation, launches [s].
    memory_efficiency, matrix_efficiency, overlap_exponent : float
        As for :class:`GemmConstants` [-].
    reread_share : float
        rr: share of an expert's weights fetched again for a second and later row block where the kernel groups them [-].
    activation_efficiency : float
        ea: share of the bandwidth the row traffic reaches [-].
    wave_time_s : float
        tw: time a wave of blocks takes beside its data [s].
    expert_time_s : float
        te: time the kernel's tile scheduler takes for one expert's entry, touched or not [s].
    """

    fixed_time_s: float = Field(ge=0)
    memory_efficiency: float = Field(gt=0, le=1.5)
    matrix_efficiency: float = Field(gt=0, le=1.5)
    overlap_exponent: float = Field(ge=1)
    reread_share: float = Field(ge=0, le=1)
    activation_efficiency: float = Field(gt=0, le=20)
    wave_time_s: float = Field(default=1e-18, gt=0)
    expert_time_s: float = Field(default=0.0, ge=0)


class AttentionConstants(Spec):
    """Constants of the decode-attention equation (cost model, section 4).

    Attributes
    ----------
    fixed_time_s : float
        t0 [s].
    memory_efficiency, overlap_exponent : float
        eb, p [-].
    sequence_time_s : float
        tb: per sequence planned on the device [s].
    step_share : float
        Time of one CTA's 128-key step over the time its SM's share of the bandwidth needs for the step's 65536 bytes [-]:
        tau = step_share x 65536 B x SM / BW.
    cta_time_s : float
        tc: start and end of one CTA of a 64-row tile [s].
    split_time_s : float
        ts: combining two KV splits, or one more kernel [s].
    matrix_efficiency : float
        ef, held fixed at 0.6 in fits [-].
    """

    fixed_time_s: float = Field(ge=0)
    memory_efficiency: float = Field(gt=0, le=1.5)
    overlap_exponent: float = Field(ge=1)
    sequence_time_s: float = Field(ge=0)
    step_share: float = Field(ge=0)
    cta_time_s: float = Field(ge=0)
    split_time_s: float = Field(ge=0)
    matrix_efficiency: float = Field(default=0.6, gt=0, le=1.5)


class BlockConstants(Spec):
    """Constants of a whole attention block over a compressed cache (cost model, section 4).

    Attributes
    ----------
    fixed_time_s : float
        t0: everything no byte or FLOP counted here explains [s].
    memory_efficiency, matrix_efficiency, overlap_exponent : float
        eb, ef, p of the projections together, p held fixed at 3 in fits [-].
    attention_efficiency, index_efficiency : float
        eg, ei: shares of the 16-bit and 8-bit peak attention and indexer reach [-].
    selection_time_s : float
        tk: one wave of selections, a row an SM, among more compressed tokens than a row may keep [s].
    ranking_time_s : float
        tq: ranking 2048 compressed tokens pair by pair, a row an SM [s].
    sequence_time_s : float
        tb: what each sequence of several positions takes on its own, one after the other [s].
    activation_efficiency : float
        ea: share of the bandwidth the row traffic reaches [-].
    """

    fixed_time_s: float = Field(ge=0)
    memory_efficiency: float = Field(gt=0, le=1.5)
    matrix_efficiency: float = Field(gt=0, le=1.5)
    overlap_exponent: float = Field(default=3.0, ge=1)
    selection_time_s: float = Field(ge=0)
    ranking_time_s: float = Field(default=0.0, ge=0)
    sequence_time_s: float = Field(default=0.0, ge=0)
    attention_efficiency: float = Field(gt=0, le=3)
    index_efficiency: float = Field(gt=0, le=3)
    activation_efficiency: float = Field(gt=0, le=20)


class CollectiveConstants(Spec):
    """Constants of communication between ranks (cost model, section 5).

    Attributes
    ----------
    fixed_time_s : float
        t0: one exchange between two ranks [s].
    memory_efficiency : float
        eb: share of the link bandwidth reached [-].
    exchange_time_s, rank_time_s : float
        tx, tr: one more exchange, one more rank [s].
    """

    fixed_time_s: float = Field(ge=0)
    memory_efficiency: float = Field(gt=0, le=1.5)
    exchange_time_s: float = Field(default=0.0, ge=0)
    rank_time_s: float = Field(default=0.0, ge=0)


class StreamConstants(Spec):
    """Constants of element-wise work and linear-attention scans (cost model, section 5).

    Attributes
    ----------
    fixed_time_s : float
        Time of one launch [s].
    memory_efficiency : float
        Share of the memory bandwidth reached; activations that stay in L2 exceed the memory's [-].
    walk_time_s : float
        One element that a thread of a mean along rows walks [s].
    search_time_s : float
        What a kernel that searches or sorts along rows takes beyond a launch [s].
    """

    fixed_time_s: float = Field(ge=0)
    memory_efficiency: float = Field(gt=0, le=5)
    walk_time_s: float = Field(default=0.0, ge=0)
    search_time_s: float = Field(default=0.0, ge=0)


Constants = GemmConstants | MoEConstants | AttentionConstants | BlockConstants | CollectiveConstants | StreamConstants

CONSTANTS_OF: dict[str, type[Constants]] = {
    "gemm": GemmConstants,
    "moe": MoEConstants,
    "attention": AttentionConstants,
    "latent_attention": AttentionConstants,
    "csa_block": BlockConstants,
    "hca_block": BlockConstants,
    "elementwise": StreamConstants,
    "linear_scan": StreamConstants,
    "collective": CollectiveConstants,
}


class HeldOutScore(Spec):
    """What the fit scored on shapes it never saw.

    Attributes
    ----------
    curves : int
        Curves scored [-].
    mape : float
        Median over curves of each curve's mean absolute percentage error [-], as a fraction.
    boundary_median, boundary_p90 : float or None
        Median and 90th percentile of |log2(NFP predicted / measured)| at tolerance 0.2 [-].
    band_coverage : float or None
        Share of held-out points inside the 80 % band [-].
    """

    curves: int = Field(ge=0)
    mape: float = Field(ge=0)
    boundary_median: float | None = Field(default=None, ge=0)
    boundary_p90: float | None = Field(default=None, ge=0)
    band_coverage: float | None = Field(default=None, ge=0, le=1)


class Fit(Spec):
    """One set of constants: operator, data type, values, how sure, where from.

    Attributes
    ----------
    operator : str
        Equation the constants belong to.
    dtypes : tuple of str
        Weight types (GEMM, MoE) or cache types (attention) it was fitted on; empty means any.
    kernels : tuple of str
        Kernel rules assumed in the fit; empty means any.
    measured_kernels : tuple of str
        Kernel names the data set recorded for the curves fitted; empty means any.
    constants : dict
        Names and values of the operator's constants class.
    fitted : tuple of str
        Which of them were fitted; the covariance follows this order.
    covariance : tuple of tuple of float
        Of the natural logarithms of the fitted constants [-].
    log_scatter : float
        Standard deviation of log(measured / predicted) around the fit on its own points [-].
    band_scatter : float
        Same, chosen so that the 80 % band covers 80 % on fit-half shapes left out in turn [-].
    band_scatter_parallel : float or None
        The same for MoE layers spread over several ranks, where they were timed [-].
    band_scatter_in_l2 : float or None
        The same for attention over a cache no larger than L2, where both were timed [-].
    residual_octaves : float
        Distance along the tokens over which what the constants leave unexplained is forgotten, so chosen that the 80 % band of NFP
        covers 80 % of fit-half shapes left out in turn [octaves].
    points, curves : int
        What it was fitted on [-].
    tokens : tuple of two int
        Range of rows, tokens or positions it saw; outside, the band widens [-].
    held_out : HeldOutScore or None
        Score on the test half: every GEMM; MoE on one GPU with balanced routing; attention with a cache larger than L2.
    held_out_also : dict
        Scores of other settings, by name: MoE ``skewed`` (power law, one GPU) and ``parallel``; attention ``all``.
    data, library_version, date, command : str
        Package and table, version of the measured library, when, how to repeat it.
    """

    operator: OperatorKind
    dtypes: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    measured_kernels: tuple[str, ...] = ()
    constants: dict[str, float]
    fitted: tuple[str, ...] = ()
    covariance: tuple[tuple[float, ...], ...] = ()
    log_scatter: float = Field(ge=0)
    band_scatter: float | None = Field(default=None, ge=0)
    band_scatter_parallel: float | None = Field(default=None, ge=0)
    band_scatter_in_l2: float | None = Field(default=None, ge=0)
    residual_octaves: float = Field(default=2.0, gt=0)
    points: int = Field(default=0, ge=0)
    curves: int = Field(default=0, ge=0)
    tokens: tuple[int, int] | None = None
    held_out: HeldOutScore | None = None
    held_out_also: dict[str, HeldOutScore] = Field(default_factory=dict)
    data: str
    library_version: str = ""
    date: str
    command: str

    @model_validator(mode="after")
    def _check_itself(self) -> Self:
        for dtype in self.dtypes:
            if dtype not in ELEMENT_TYPES:
                raise ValueError(f"unknown data type '{dtype}'; allowed: {', '.join(ELEMENT_TYPES)}")
        self.values()
        unknown = [name for name in self.fitted if name not in self.constants]
        if unknown:
            raise ValueError(f"fitted names {', '.join(unknown)}, which constants does not hold")
        if self.covariance and {len(self.covariance), *map(len, self.covariance)} != {len(self.fitted)}:
            raise ValueError(f"covariance must be {len(self.fitted)} x {len(self.fitted)}, in the order of 'fitted'")
        return self

    def scatter(self, parallel: bool = False, in_l2: bool = False) -> float:
        """Standard deviation of log T the constants do not explain [-].

        Parameters
        ----------
        parallel : bool
            MoE over several ranks.
        in_l2 : bool
            Attention over a cache no larger than L2.
        """
        own = self.band_scatter_parallel if parallel else self.band_scatter_in_l2 if in_l2 else None
        return next((one for one in (own, self.band_scatter) if one is not None), self.log_scatter)

    def values(self) -> Constants:
        """The constants as the typed record the equation takes."""
        kind: Any = CONSTANTS_OF[self.operator]
        return kind.model_validate(self.constants)  # type: ignore[no-any-return]


class Calibration(Spec):
    """All fits for one GPU and backend, or the uncalibrated constants for chips nobody measured.

    Attributes
    ----------
    name : str
        File stem: ``<gpu>.<backend>``, or ``uncalibrated`` with ``.without_<generation>``.
    hardware : str
        Hardware key, ``any`` for uncalibrated.
    backend : str
        ``torch``, ``vllm``, ``sglang``, ``trtllm`` or ``uncalibrated``.
    generation_left_out : str or None
        GPU generation the constants never saw.
    fits : tuple of Fit
        The constants.
    notes : tuple of str
        What the file does not claim.
    """

    name: str
    hardware: str
    backend: str
    generation_left_out: str | None = None
    fits: tuple[Fit, ...]
    notes: tuple[str, ...] = ()

    def fit_for(self, operator: OperatorKind, dtype: str) -> Fit | None:
        """The fit for an operator and data type: the exact type first, then one that claims any."""
        candidates = [fit for fit in self.fits if fit.operator == operator]
        exact = [fit for fit in candidates if dtype in fit.dtypes]
        general = [fit for fit in candidates if not fit.dtypes]
        return next(iter(exact or general), None)


def load_calibration(hardware: str, backend: str) -> Calibration | None:
    """The calibration of one GPU and backend, None where nobody measured it.

    Parameters
    ----------
    hardware : str
        Hardware key such as ``h100_sxm5``.
    backend : str
        ``torch``, ``vllm``, ``sglang`` or ``trtllm``.
    """
    path = _calibration_files(spec_roots()).get(f"{hardware}.{backend}")
    return load_spec(Calibration, "calibrations", path) if path else None


def uncalibrated(generation: str | None = None) -> Calibration:
    """The constants for a chip without measurements; for a known generation, the set fitted without it.

    Parameters
    ----------
    generation : str or None
        GPU generation to leave out.
    """
    files = _calibration_files(spec_roots())
    path = files.get(f"uncalibrated.without_{generation}") or files.get("uncalibrated")
    if path is None:
        raise SpecError(
            "no uncalibrated constants found (hardware_specs/calibrations/uncalibrated.toml); reinstall nfp-model"
        )
    return load_spec(Calibration, "calibrations", path)


@lru_cache(maxsize=8)
def _calibration_files(roots: tuple[Path, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in spec_files("calibrations"):
        found.setdefault(path.stem, path)
    return found
