"""What the predictions are meant to reach on the test half, and whether each row does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nfp_model.validation.score_records import REPEAT, BoundaryScore, RowScore

A100, L40S, RTX = "a100_sxm4_80gb", "l40s", "rtx_pro_6000_blackwell"
HOPPER = ("h100_sxm5", "h200_sxm")
BLACKWELL = ("b200_sxm", "b300_sxm", "gb200", "gb300")
SERVERS = HOPPER + BLACKWELL

TOLERANCE = "0.2"
"""eps the boundary goals are stated at."""

NOISE_FACTOR = 1.2
"""Where a table's own repeat noise exceeds a goal, the goal is this times the noise [-]."""


@dataclass(frozen=True)
class Goal:
    """One goal.

    Attributes
    ----------
    title : str
        As the table prints it.
    mape : float
        Median over curves of the curve MAPE, at most [-].
    boundaries : dict
        Baseline -> median and 90th percentile of |log2(NFP predicted / measured)|, at most [-].
    operators, gpus, backends, dtypes, settings : tuple of str
        Rows it is about; empty means any.
    constants : str
        ``fitted`` or ``uncalibrated``.
    """

    title: str
    mape: float
    boundaries: dict[str, tuple[float, float]]
    operators: tuple[str, ...]
    gpus: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    constants: str = "fitted"

    def covers(self, row: RowScore) -> bool:
        """Whether a row is one the goal is about, whatever its constants and kernel."""
        key = row.key
        pairs = (
            (self.operators, key.operator), (self.gpus, key.gpu), (self.backends, key.backend), (self.dtypes, key.dtype),
            (self.settings, key.setting),
        )  # fmt: skip
        return all(not allowed or value in allowed for allowed, value in pairs)


def _gemm(title: str, mape: float, median: float, p90: float, gpus: tuple[str, ...], constants: str = "fitted") -> Goal:
    return Goal(title, mape, {"16": (median, p90)}, ("gemm",), gpus, dtypes=("bfloat16",), constants=constants)


def _moe(
    title: str, mape: float, median: float, p90: float, settings: tuple[str, ...], **rest: tuple[str, ...]
) -> Goal:
    return Goal(title, mape, {"saturated": (median, p90)}, ("moe",), settings=settings, **rest)  # type: ignore[arg-type]


_UNCALIBRATED = "GEMM bf16, uncalibrated, its generation left out: "
_BATCH = {"1": (0.0, 1.0)}
_MAIN_TYPES = ("bfloat16", "fp8_block")

GOALS: tuple[Goal, ...] = (
    _gemm("GEMM bf16, Hopper and Blackwell", 0.05, 0.20, 0.65, SERVERS),
    _gemm("GEMM bf16, A100", 0.08, 0.40, 0.80, (A100,)),
    _gemm("GEMM bf16, L40S", 0.07, 0.50, 1.3, (L40S,)),
    _gemm("GEMM bf16, RTX PRO 6000", 0.05, 0.35, 0.80, (RTX,)),
    Goal("GEMM fp8, fp8 block, nvfp4", 0.08, {"16": (0.25, 1.0)}, ("gemm",), dtypes=("fp8", "fp8_block", "nvfp4")),
    Goal("Dense layer (qkv + o + gate/up + down), bf16, Hopper and Blackwell", 0.035, {"16": (0.15, 0.50)}, ("dense_layer",),
         SERVERS, dtypes=("bfloat16",)),
    Goal("Fused MoE vLLM bf16 and fp8 block, Hopper and Blackwell, one GPU, balanced", 0.045,
         {"saturated": (0.15, 0.7), "1": (0.0, 0.0)}, ("moe",), SERVERS, ("vllm",), _MAIN_TYPES, ("balanced",)),
    _moe("The same, power law", 0.055, 0.4, 1.0, ("power law",), gpus=SERVERS, backends=("vllm",), dtypes=_MAIN_TYPES),
    _moe("Fused MoE, other backends, data types and GPUs, balanced and power law", 0.08, 0.4, 1.0, ("balanced", "power law")),
    _moe("Fused MoE under tensor or expert parallelism", 0.09, 0.5, 1.5, ("parallel",)),
    Goal("Decode attention, one query, KV beyond L2", 0.035, _BATCH, ("attention", "mla"), settings=("KV beyond L2",)),
    Goal("Decode attention, one query, every KV", 0.06, _BATCH, ("attention", "mla"), settings=("every KV",)),
    Goal("Attention modules over query positions", 0.06, _BATCH, ("attention_module",)),
    _gemm(_UNCALIBRATED + "Hopper, Blackwell", 0.08, 0.4, 0.9, SERVERS, "uncalibrated"),
    _gemm(_UNCALIBRATED + "Ada, RTX PRO", 0.10, 0.6, 1.6, (L40S, RTX), "uncalibrated"),
    _gemm(_UNCALIBRATED + "A100", 0.16, 0.4, 0.9, (A100,), "uncalibrated"),
)  # fmt: skip
"""In the order of the report. A row belongs to the first goal that covers it."""


@dataclass(frozen=True)
class Verdict:
    """One row against its goal.

    Attributes
    ----------
    row : RowScore
        Judged.
    mape_goal : float
        The goal, or 1.2 times the repeat noise where that noise is larger [-].
    boundary_goals : dict
        The same for every baseline's median and 90th percentile [-].
    mape_met, boundary_met : bool
        Reached; never with curves refused.
    by_noise : bool
        Some goal was replaced by the noise.
    """

    row: RowScore
    mape_goal: float
    boundary_goals: dict[str, tuple[float, float]]
    mape_met: bool
    boundary_met: bool
    by_noise: bool

    @property
    def met(self) -> bool:
        """Both goals reached."""
        return self.mape_met and self.boundary_met


@dataclass(frozen=True)
class GoalResult:
    """A goal with every row it is about.

    Attributes
    ----------
    goal : Goal
        What was aimed at.
    verdicts : tuple of Verdict
        One for every row.
    other_kernels : tuple of RowScore
        Rows left out because the kernel the table names is not the one the constants and the rule are about.
    """

    goal: Goal
    verdicts: tuple[Verdict, ...]
    other_kernels: tuple[RowScore, ...]

    @property
    def met(self) -> int:
        """Rows that reach it [-]."""
        return sum(verdict.met for verdict in self.verdicts)


def judge(row: RowScore, goal: Goal) -> Verdict:
    """Hold one row to a goal, loosened where the table's own noise is larger.

    Parameters
    ----------
    row : RowScore
        What was reached.
    goal : Goal
        What was aimed at.
    """
    noise = row.predictors.get(REPEAT)
    mape_goal, by_noise = _loosened(goal.mape, noise.mape if noise else None)
    wanted: dict[str, tuple[float, float]] = {}
    reached = True
    for baseline, (median, p90) in goal.boundaries.items():
        label = f"{TOLERANCE}|{baseline}"
        repeated = noise.boundaries.get(label) if noise else None
        median, loosened = _loosened(median, repeated.median if repeated else None)
        p90, also = _loosened(p90, repeated.p90 if repeated else None)
        wanted[baseline] = (median, p90)
        by_noise = by_noise or loosened or also
        reached = reached and _within(row.ours.boundaries.get(label), median, p90)
    unrefused = not row.refused and row.curves > 0
    mape_met = unrefused and row.ours.mape is not None and row.ours.mape <= mape_goal
    return Verdict(row, mape_goal, wanted, mape_met, unrefused and reached, by_noise)


def _loosened(goal: float, noise: float | None) -> tuple[float, bool]:
    return (NOISE_FACTOR * noise, True) if noise is not None and noise > goal else (goal, False)


def _within(score: BoundaryScore | None, median: float, p90: float) -> bool:
    return score is not None and score.median <= median + 1e-9 and score.p90 <= p90 + 1e-9


def judged(rows: Iterable[RowScore]) -> tuple[GoalResult, ...]:
    """Every goal with its rows; a row belongs to the first goal that covers it.

    Where no calibration has constants for a row, the uncalibrated ones, which are what a user then gets, are held to the goal.
    """
    every = tuple(rows)
    fitted = {row.key for row in every if row.key.constants == "fitted"}
    taken: dict[int, list[RowScore]] = {}
    for row in every:
        kinds = {row.key.constants}
        if row.key.constants == "uncalibrated" and replace(row.key, constants="fitted") not in fitted:
            kinds.add("fitted")
        for kind in kinds:
            place = next((n for n, goal in enumerate(GOALS) if goal.constants == kind and goal.covers(row)), None)
            if place is not None:
                taken.setdefault(place, []).append(row)
    results = []
    for number, goal in enumerate(GOALS):
        mine = taken.get(number, [])
        known = [row for row in mine if _kernel_known(row)]
        others = tuple(row for row in mine if not _kernel_known(row))
        results.append(GoalResult(goal, tuple(judge(row, goal) for row in known), others))
    return tuple(results)


def _kernel_known(row: RowScore) -> bool:
    """The table names the kernel the constants are about, and a quantised GEMM runs one whose tiles are known."""
    guessed = row.key.operator == "gemm" and row.key.dtype != "bfloat16" and row.rule.endswith(":default_tile")
    return row.described and not guessed
