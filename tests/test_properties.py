"""What must hold for every prediction, whatever the numbers: monotone in the tolerance, free of units, exact search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from nfp_model import Attention, FusedMoE, Gemm, LatencyCurve, load_hardware, load_model, near_free_boundary
from nfp_model.baselines import idle_compute_positions
from nfp_model.boundary import saturated_baseline
from nfp_model.cost.binding import bind
from nfp_model.cost.closed_form import evaluated
from nfp_model.cost.equations import equation
from nfp_model.cost.inputs import equation_inputs
from nfp_model.cost.latency import BoundOperator
from nfp_model.curve import BoundForward
from nfp_model.kernels.routing import experts_touched
from nfp_model.operators import OperatorUse
from nfp_model.prediction import bind_forward
from nfp_model.specs.attention_kernel import AttentionKernel, AttentionRow
from nfp_model.specs.calibration import Fit
from nfp_model.specs.gemm_kernel import GemmKernel
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.moe_kernel import MoEKernel
from nfp_model.workload import Routing, Workload

GPUS = ("a100", "h100", "h200", "b200", "l40s", "mi300x")
BF16_MODELS = ("llama-3.1-8b", "mixtral", "qwen3-30b-a3b", "gemma-3-27b", "qwen3-next-80b-a3b")

forwards = st.builds(
    lambda gpu, model, batch, context, routing, captures, backend: bind_forward(
        load_hardware(gpu),
        load_model(model),
        Workload(batch, context, routing=Routing.parse(routing), captures=captures),
        backend,
    ),
    st.sampled_from(GPUS),
    st.sampled_from(BF16_MODELS),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from([0, 100, 4096]),
    st.sampled_from(["uniform", "balanced", "power_law:1.2"]),
    st.sampled_from([None, None, "vllm", "sglang", (8, 20, 64)]),
    st.sampled_from(["uncalibrated", "vllm"]),
)


def curve_of(forward: BoundForward, first: int, last: int) -> LatencyCurve:
    return forward.curve(forward.edges(first, last))


def brute_force(seconds: np.ndarray, positions: np.ndarray, tolerance: float) -> tuple[int, int | None, bool]:
    """NFP, first exit and censoring by the definition, from T at every position."""
    free = seconds <= (1 + tolerance) * seconds[0]
    broken = positions[~free]
    return int(positions[free][-1]), int(broken[0]) if broken.size else None, bool(free[-1])


@given(forwards, st.sampled_from([1, 2, 5, 16]), st.sampled_from([32, 200, 700]), st.floats(0.01, 1.0))
@settings(max_examples=40, deadline=None)
def test_the_edge_search_finds_what_every_position_says(
    forward: BoundForward, first: int, last: int, tolerance: float
) -> None:
    curve = curve_of(forward, first, last)
    assert curve.refine is not None
    every = np.arange(first, last + 1)
    nfp, first_exit, censored = brute_force(curve.refine(every, None), every, tolerance)
    found = near_free_boundary(curve, tolerance, first)
    assert (found.nfp, found.censored) == (nfp, censored)
    if forward.workload.routing.kind != "power_law":
        assert found.first_exit == first_exit
    elif first_exit is not None:
        # Loads of a power law are whole numbers, whose steps of a percent or two up and down are no edges: a first exit
        # of single positions may be passed over.
        assert found.first_exit is None or found.first_exit >= first_exit


@given(
    st.sampled_from(["llama-3.1-8b", "qwen3-30b-a3b"]),
    st.sampled_from([1, 3, 8]),
    st.sampled_from([1, 2, 5, 16]),
    st.sampled_from([32, 200, 700]),
    st.floats(0.01, 1.0),
)
@settings(max_examples=20, deadline=None)
def test_the_edge_search_holds_where_time_falls_while_a_tile_fills(
    model: str, batch: int, first: int, last: int, tolerance: float
) -> None:
    # SGLang's DeepGEMM on Hopper pays for idle rows of the last tile.
    workload = Workload(batch, 1024, weight_dtype="fp8_block")
    curve = curve_of(bind_forward(load_hardware("h100"), load_model(model), workload, "sglang"), first, last)
    assert curve.refine is not None
    every = np.arange(first, last + 1)
    seconds = curve.refine(every, None)
    nfp, _, censored = brute_force(seconds, every, tolerance)
    found = near_free_boundary(curve, tolerance, first)
    assert (found.nfp, found.censored) == (nfp, censored)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(1e-6, 2e-6)), min_size=1, max_size=40),
    st.floats(0.01, 1.0),
)
def test_a_measured_curve_is_judged_on_its_points(steps: list[tuple[int, float]], tolerance: float) -> None:
    positions = np.cumsum([step for step, _ in steps])
    seconds = np.array([time for _, time in steps])
    found = near_free_boundary(LatencyCurve.measured(positions, seconds), tolerance, int(positions[0]))
    assert (found.nfp, found.first_exit, found.censored) == brute_force(seconds, positions, tolerance)


@given(forwards, st.floats(0.01, 0.5), st.floats(0.0, 0.5))
@settings(max_examples=25, deadline=None)
def test_nfp_never_falls_when_the_tolerance_grows(forward: BoundForward, tolerance: float, more: float) -> None:
    curve = curve_of(forward, 1, 1024)
    strict, loose = near_free_boundary(curve, tolerance), near_free_boundary(curve, tolerance + more)
    assert strict.nfp <= loose.nfp
    assert (strict.first_exit or 1025) <= (loose.first_exit or 1025)


@given(forwards, st.sampled_from([1, 4]), st.sampled_from([1, 2, 3, 64, 4096]), st.floats(0.01, 10.0))
@settings(max_examples=25, deadline=None)
def test_the_boundary_lies_in_the_range_searched(
    forward: BoundForward, first: int, last: int, tolerance: float
) -> None:
    last = max(first, last)
    found = near_free_boundary(curve_of(forward, first, last), tolerance, first)
    assert first <= found.nfp <= last
    assert found.first_exit is None or first < found.first_exit <= last
    assert found.censored == (found.nfp == last)


TIMES = (
    "fixed_time_s",
    "chain_time_s",
    "split_time_s",
    "sequence_time_s",
    "cta_time_s",
    "wave_time_s",
    "expert_time_s",
)


def scaled(bound: BoundOperator, factor: float) -> BoundOperator:
    """The same operator on a chip ``factor`` times as fast whose every fixed time is as much shorter."""
    hardware = bound.hardware
    links = hardware.interconnect
    faster = hardware.model_copy(
        update={
            "memory_bandwidth_bytes_per_s": factor * hardware.memory_bandwidth_bytes_per_s,
            "peak_flop_per_s": {key: factor * peak for key, peak in hardware.peak_flop_per_s.items()},
            "interconnect": links.model_copy(
                update={"scale_up_bandwidth_bytes_per_s": factor * (links.scale_up_bandwidth_bytes_per_s or 1.0)}
            ),
        }
    )
    constants = {name: value / factor if name in TIMES else value for name, value in bound.fit.constants.items()}
    return replace(bound, hardware=faster, fit=bound.fit.model_copy(update={"constants": constants}))


@given(forwards, st.floats(0.1, 10.0), st.floats(0.02, 0.5))
@settings(max_examples=25, deadline=None)
def test_only_ratios_of_rates_and_times_matter(forward: BoundForward, factor: float, tolerance: float) -> None:
    faster = replace(forward, bound=tuple(scaled(bound, factor) for bound in forward.bound))
    slow, fast = curve_of(forward, 1, 600), curve_of(faster, 1, 600)
    assert fast.positions.tolist() == slow.positions.tolist()
    np.testing.assert_allclose(fast.seconds * factor, slow.seconds, rtol=1e-9)
    # A hair of tolerance either way: rounding may decide a tie.
    nfp = near_free_boundary(fast, tolerance).nfp
    assert (
        near_free_boundary(slow, tolerance * (1 - 1e-7)).nfp
        <= nfp
        <= near_free_boundary(slow, tolerance * (1 + 1e-7)).nfp
    )


# The idle-compute limit, operator by operator ---------------------------------------------------------------------------------


def ideal_fit(operator: str, **constants: float) -> Fit:
    common = {"fixed_time_s": 0.0, "memory_efficiency": 1.0, "matrix_efficiency": 1.0, "overlap_exponent": 40.0}
    return Fit(operator=operator, constants=common | constants, log_scatter=0.0, data="limit", date="", command="")


IDEAL_GEMM = ideal_fit("gemm", chain_time_s=0.0, split_time_s=0.0)
IDEAL_MOE = ideal_fit("moe", reread_share=0.0, activation_efficiency=20.0)
IDEAL_ATTENTION = ideal_fit("attention", sequence_time_s=0.0, step_share=0.0, cta_time_s=0.0, split_time_s=0.0)

UNIT_GEMM = GemmKernel(
    name="unit", library="limit", weight_dtypes=("bfloat16",), selection="menu",
    token_tiles=(1,), output_tiles=(1,), splits=(1,), source="limit",
)  # fmt: skip
UNIT_MOE = MoEKernel(
    name="unit", weight_dtypes=("bfloat16",), versions="", selection="smallest_covering", menu=(1,), block_columns=1,
    expert_basis="local", grouped=True, source="limit",
)  # fmt: skip
UNIT_ATTENTION = AttentionKernel(
    name="unit",
    library="limit",
    latent=False,
    rows=(AttentionRow(tile_rows=1, packing="free", split_rule="none"),),
    source="limit",
)


def operator_nfp(bound: BoundOperator, tolerance: float, baseline: int, last: int) -> int:
    grid = np.unique([baseline, last])
    curve = LatencyCurve(grid, bound.seconds(grid), refine=lambda rows, _: bound.seconds(rows))
    found = near_free_boundary(curve, tolerance, baseline)
    assert not found.censored
    return found.nfp


def idle(bound: BoundOperator, workload: Workload, baseline: int) -> float:
    return idle_compute_positions(
        [OperatorUse("one", "dense_ffn", bound.operator, 1)], bound.hardware, workload, baseline
    )


def close(expected: float) -> object:
    """One position of rounding, and 1 %: p = 40 falls short of perfect overlap, the rows of experts cost a little."""
    return pytest.approx(expected, abs=1.0 + 0.01 * expected)


@given(st.sampled_from(GPUS), st.floats(0.1, 0.5))
@settings(max_examples=20, deadline=None)
def test_an_ideal_gemm_is_free_up_to_idle_compute_times_the_tolerance(gpu: str, tolerance: float) -> None:
    hardware = load_hardware(gpu)
    # Wide enough that one row's tiles of one column fill the SMs; deep enough that activations vanish beside weights.
    bound = BoundOperator(Gemm(2**17, 2**17), hardware, UNIT_GEMM, IDEAL_GEMM, "limit")
    expected = (1 + tolerance) * idle(bound, Workload(), 1)
    assert operator_nfp(bound, tolerance, 1, 4096) == close(expected)


@given(st.sampled_from(GPUS), st.floats(0.1, 0.5), st.sampled_from([(8, 2), (64, 8), (128, 8)]))
@settings(max_examples=20, deadline=None)
def test_ideal_experts_are_free_up_to_idle_compute_from_the_saturated_step(
    gpu: str, tolerance: float, shape: tuple[int, int]
) -> None:
    experts, top_k = shape
    operator = FusedMoE(2**13, 2**13, experts, top_k, routing="balanced")
    bound = BoundOperator(operator, load_hardware(gpu), UNIT_MOE, IDEAL_MOE, "limit")
    baseline = saturated_baseline(experts, top_k, 1)
    assert experts_touched(Routing.parse("balanced"), experts, top_k, np.array([baseline]))[0] == experts
    expected = (1 + tolerance) * idle(bound, Workload(routing=Routing.parse("balanced")), baseline)
    assert operator_nfp(bound, tolerance, baseline, 30_000) == close(expected)


@given(st.sampled_from(GPUS), st.floats(0.1, 0.5), st.sampled_from([1, 4, 16]), st.sampled_from([1, 8]))
@settings(max_examples=20, deadline=None)
def test_ideal_attention_is_free_up_to_idle_compute(gpu: str, tolerance: float, group: int, batch: int) -> None:
    # A cache so long that the new positions' own keys vanish beside it.
    operator = Attention(8 * group, 8, 128, 10**6, batch)
    bound = BoundOperator(operator, load_hardware(gpu), UNIT_ATTENTION, IDEAL_ATTENTION, "limit")
    expected = (1 + tolerance) * idle(bound, Workload(batch, 10**6), 1)
    assert operator_nfp(bound, tolerance, 1, 4096) == close(expected)


# Symbols and compiled code -----------------------------------------------------------------------------------------------------


def operators() -> st.SearchStrategy[Gemm | FusedMoE | Attention]:
    return st.one_of(
        st.builds(Gemm, st.sampled_from([512, 4096, 28672]), st.sampled_from([512, 4096, 14336])),
        st.builds(FusedMoE, st.just(2048), st.sampled_from([768, 1536]), st.just(64), st.sampled_from([2, 8])),
        st.builds(
            Attention,
            st.just(32),
            st.sampled_from([1, 8, 32]),
            st.just(128),
            st.sampled_from([0, 5000]),
            st.sampled_from([1, 7]),
        ),
    )


@given(st.sampled_from(GPUS), operators(), st.integers(1, 3000), st.sampled_from(["uncalibrated", "vllm"]))
@settings(max_examples=40, deadline=None)
def test_symbolic_and_compiled_values_are_equal(
    gpu: str, operator: Gemm | FusedMoE | Attention, tokens: int, backend: str
) -> None:
    bound = bind(load_hardware(gpu), operator, backend)
    kind, values = bound.winning_inputs(tokens)
    assert evaluated(equation(kind).latency, values) == pytest.approx(float(bound.seconds(tokens)[0]), rel=1e-9)
    for name, expected in bound.terms(tokens).items():
        if name in equation(kind).terms:
            assert evaluated(equation(kind).terms[name], values) == pytest.approx(
                float(expected[0]), rel=1e-9, abs=1e-18
            )


COUNTS = ("waves", "tile_cost", "key_steps", "splits", "is_split", "passes", "tile_rows", "tile_columns")


@given(st.sampled_from(GPUS), operators(), st.sampled_from(["uncalibrated", "vllm"]))
@settings(max_examples=30, deadline=None)
def test_between_edges_counts_stay_and_time_does_not_fall(
    gpu: str, operator: Gemm | FusedMoE | Attention, backend: str
) -> None:
    last = 600
    bound = bind(load_hardware(gpu), operator, backend)
    tokens = np.arange(1, last + 1)
    inside = np.ones(last, dtype=bool)
    inside[bound.edges(last) - 1] = False
    kind, inputs = equation_inputs(bound, tokens)
    # Expected blocks of independent choices, and with them the waves of an expert layer, move smoothly between edges.
    for name in set(COUNTS) & set(inputs) - ({"waves"} if kind == "moe" else set()):
        values = np.atleast_2d(inputs[name])
        if values.shape[1] == last:
            changed = (np.diff(values, axis=1) != 0).any(axis=0)
            assert not (changed & inside[1:]).any(), (kind, name)
    seconds = bound.seconds(tokens)
    assert (np.diff(seconds)[inside[1:]] >= -1e-12 * seconds[:-1][inside[1:]]).all()


def test_the_idle_compute_answer_of_a_gemm_is_the_ridge_point() -> None:
    hardware: HardwareSpec = load_hardware("h100")
    bound = bind(hardware, Gemm(4096, 4096), "uncalibrated")
    assert idle(bound, Workload(), 1) == pytest.approx(hardware.ridge_point("bfloat16"))
