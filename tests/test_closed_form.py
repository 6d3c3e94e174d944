"""The closed-form principle: its limits as SymPy proofs, its numbers against the exact search over shipped shapes and GPUs."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings, strategies as st

from nfp_model import Gemm, load_hardware, load_model, predict_nfp
from nfp_model.boundary import near_free_boundary
from nfp_model.cost import closed_form, symbols as y
from nfp_model.cost.binding import bind
from nfp_model.cost.closed_form import evaluated
from nfp_model.cost.latency import BoundOperator
from nfp_model.curve import LatencyCurve
from nfp_model.operators import forward_operators
from nfp_model.prediction.closed import principle
from nfp_model.specs.registry import spec_names
from nfp_model.workload import Workload

IDLE = y.P * y.W / (y.BW * y.F * y.B)
"""Idle compute of weights read once: FLOP that fit in the time the bytes take, per position."""


def test_without_overhead_and_with_perfect_overlap_it_is_idle_compute_times_the_tolerance() -> None:
    ideal = closed_form.dense_positions().subs({y.t_0: 0, y.e_b: 1, y.e_f: 1})
    assert sp.simplify(sp.limit(ideal, y.p, sp.oo) - (1 + y.eps) * IDLE) == 0


def test_perfect_overlap_leaves_the_fixed_time_as_a_factor() -> None:
    r = sp.Symbol("r", positive=True)
    with_overhead = sp.simplify(closed_form.dense_positions().subs({y.t_0: r * y.W, y.e_b: 1, y.BW: 1, y.e_f: 1}))
    assert sp.simplify(sp.limit(with_overhead, y.p, sp.oo) - (1 + y.eps * (1 + r)) * IDLE.subs(y.BW, 1)) == 0


def test_no_overlap_leaves_only_the_tolerance_of_the_whole_time() -> None:
    # p = 1: memory and matrix time add, so matrix time may be eps (t0 + m), whatever the memory.
    serial = closed_form.dense_positions().subs({y.p: 1, y.e_b: 1, y.e_f: 1})
    assert sp.simplify(serial - y.eps * (y.t_0 + y.W / y.BW) * y.P / (y.F * y.B)) == 0


def test_the_cache_form_is_the_dense_form_with_cache_bytes() -> None:
    without_sequence_time = closed_form.cache_positions().subs({y.t_b: 0, y.V: y.W})
    assert sp.simplify(without_sequence_time - closed_form.dense_positions()) == 0


def test_expert_forms_invert_the_published_activation_formula() -> None:
    # MoESD, arXiv 2505.19645, equation 8: A = E (1 - (1 - k/E)^M); here M = N B.
    rows = closed_form.uniform_expert_positions() * y.B
    touched = y.E * (1 - sp.exp(rows * sp.log(1 - y.K / y.E)))
    assert sp.simplify(touched - closed_form.experts_allowed()) == 0
    assert sp.simplify(closed_form.balanced_expert_positions() * y.K * y.B - closed_form.experts_allowed()) == 0


def test_one_more_expert_costs_its_weights_at_full_stream() -> None:
    # kappa = E = 1 expert more is paid by exactly eps T0 = its bytes over the bandwidth.
    paid = closed_form.experts_allowed().subs(y.T_0, (y.W_u + y.W_d) / (y.eps * y.BW * y.e_b))
    assert sp.simplify(paid - y.A - 1) == 0


def test_the_wave_form_fills_the_slots_of_the_running_waves() -> None:
    assert closed_form.wave_positions() == y.SM * y.o * y.f * y.b_m / (y.c * y.g)


POSITIVE = {
    "bandwidth": (1e11, 2e13), "peak": (1e13, 1e16), "memory_efficiency": (0.5, 1.0), "matrix_efficiency": (0.3, 1.0),
    "weight_bytes": (1e6, 1e9), "row_bytes": (1e3, 1e5), "row_flop": (1e6, 1e9), "overlap_exponent": (1.2, 8.0),
    "fixed_time": (1e-6, 5e-5), "batch": (1.0, 64.0), "tolerance": (0.02, 0.5),
}  # fmt: skip


def draws() -> st.SearchStrategy[dict[str, float]]:
    return st.fixed_dictionaries({name: st.floats(low, high) for name, (low, high) in POSITIVE.items()})


@given(draws(), st.sampled_from(["bandwidth", "peak", "fixed_time", "tolerance", "overlap_exponent"]))
@settings(max_examples=25, deadline=None)
def test_derivatives_are_those_of_the_numbers(values: dict[str, float], name: str) -> None:
    expression = closed_form.dense_positions()
    slope = evaluated(sp.diff(expression, y.SYMBOLS[name].symbol), values)
    step = 1e-5 * values[name]
    sides = [evaluated(expression, {**values, name: values[name] + sign * step}) for sign in (1, -1)]
    assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-4, abs=1e-6 * abs(sides[0]) / values[name])


@given(draws(), st.floats(1.0, 1e5))
@settings(max_examples=25, deadline=None)
def test_the_iteration_takes_the_symbolic_newton_step(values: dict[str, float], start: float) -> None:
    memory = values["weight_bytes"] / (values["bandwidth"] * values["memory_efficiency"])
    values = {**values, "free_time": (1 + values["tolerance"]) * memory}
    per_row = values["row_bytes"] / (values["bandwidth"] * values["memory_efficiency"])
    rows = min(start, (values["free_time"] - memory) / per_row)
    for _ in range(closed_form.NEWTON_STEPS):
        rows = evaluated(closed_form.dense_step(), {**values, "rows": rows})
    assert closed_form.iterated_rows({**values, "start": start}) == pytest.approx(max(rows, 0.0), rel=1e-6, abs=1e-6)


def test_row_blocks_over_arrays_are_the_expression() -> None:
    values = {
        "bandwidth": 3.35e12, "peak": 989.4e12, "memory_efficiency": 0.85, "matrix_efficiency": 0.5, "overlap_exponent": 3.0,
        "activation_efficiency": 0.5, "fixed_time": 25e-6, "row_flop": 3.5e8, "up_bytes": 2.3e8, "down_bytes": 1.2e8,
        "reread_up": 0.15, "reread_down": 0.15, "experts": 8.0, "experts_touched": 7.9, "top_k": 2.0, "batch": 2.0,
        "tile_rows": 64.0, "row_blocks": 9.0, "moved_bytes": 4e7, "baseline_latency": 1.1e-3, "tolerance": 0.1,
        "waves": 40.0, "wave_time": 2e-6, "walked_experts": 8.0, "expert_time": 0.3e-6,
    }  # fmt: skip
    expected = evaluated(closed_form.row_block_positions(), values)
    assert float(closed_form.row_blocks_reach(values)) == pytest.approx(expected, rel=1e-9)
    # Re-reads that alone break the tolerance leave nothing.
    assert float(closed_form.row_blocks_reach({**values, "row_blocks": 90.0})) < 0


def dense_shapes() -> list[tuple[int, int]]:
    """(n, k) of every dense GEMM of every shipped model."""
    uses = [use for name in spec_names("model") for use in forward_operators(load_model(name), Workload())]
    return sorted(
        {(use.operator.out_features, use.operator.in_features) for use in uses if isinstance(use.operator, Gemm)}
    )


LARGEST = 4096
GPUS = ("a100", "h100", "h200", "b200", "l40s", "mi300x")


def exact_rows(bound: BoundOperator, tolerance: float) -> int | None:
    edges = bound.edges(LARGEST)
    grid = np.unique(np.concatenate([[1, LARGEST], edges, edges[1:] - 1]))
    curve = LatencyCurve(grid, bound.seconds(grid), refine=lambda rows, _: bound.seconds(rows))
    found = near_free_boundary(curve, tolerance)
    return None if found.censored else found.nfp


def closed_rows(bound: BoundOperator, tolerance: float) -> tuple[float, float]:
    operator = bound.operator
    assert isinstance(operator, Gemm)
    values = {
        **bound.winning_inputs(1)[1], "row_flop": operator.flop_per_row, "batch": 1.0, "tolerance": tolerance,
        "baseline_rows": 1.0, "baseline_latency": float(bound.seconds(1)[0]),
    }  # fmt: skip
    one_line = evaluated(closed_form.dense_positions(), values)
    free = evaluated(closed_form.free_time(), values)
    return one_line, plateau_end(bound, closed_form.iterated_rows({**values, "free_time": free, "start": one_line}))


def plateau_end(bound: BoundOperator, rows: float) -> float:
    """The last row of the last whole tile up to ``rows``; the rows of one tile are paid for together."""
    ends = bound.edges(LARGEST)[1:] - 1
    return float(ends[ends <= rows].max(initial=1))


def disagreement(gpu: str) -> np.ndarray:
    """|log2(closed form / exact search)|: one line as it is, iterated cut to its plateau, shape (shapes x tolerances, 2)."""
    hardware, rows = load_hardware(gpu), []
    for n, k in dense_shapes()[::3]:
        operator = Gemm(n, k)
        # As NVIDIA's public timings are read: six weight copies must exceed twice the L2, or HBM is not what is timed.
        if 6 * operator.weight_bytes < 2 * (hardware.l2_bytes or 0.0):
            continue
        bound = bind(hardware, operator, "uncalibrated")
        for tolerance in (0.1, 0.2):
            exact = exact_rows(bound, tolerance)
            if exact is not None:
                rows.append([np.log2(max(form, 1.0) / exact) for form in closed_rows(bound, tolerance)])
    return np.abs(np.array(rows))


@pytest.fixture(scope="module")
def apart() -> dict[str, np.ndarray]:
    return {gpu: disagreement(gpu) for gpu in GPUS}


def test_agrees_with_the_integer_search_over_shipped_shapes(apart: dict[str, np.ndarray]) -> None:
    # docs/theory, section 6: one line .51 in the median and 1.2 at the 90th percentile, iterated .21 and .39, in |log2|.
    pooled = np.concatenate(list(apart.values()))
    assert len(pooled) > 400
    assert (np.median(pooled, axis=0) <= [0.51, 0.21]).all()
    # A100's whole waves, which the closed form does not know, put the tenth decile one tile off: 96 for 128 rows, log2(4/3).
    assert (np.quantile(pooled, 0.9, axis=0) <= [1.2, 0.416]).all()


@pytest.mark.parametrize("gpu", GPUS)
def test_the_iterated_form_meets_the_search_in_the_middle_on_every_gpu(apart: dict[str, np.ndarray], gpu: str) -> None:
    one_line, iterated = np.median(apart[gpu], axis=0)
    # A100 runs whole waves, which the closed form does not know: with the pooled overlap exponent of 2.7 that is one tile, 64 for 80 rows.
    assert iterated <= (0.33 if gpu == "a100" else 0.21)
    assert iterated < one_line
    assert one_line <= 0.65


def test_principle_stands_beside_the_exact_search() -> None:
    found = principle("h100", "mixtral")
    prediction = predict_nfp("h100", "mixtral")
    assert found.prediction.nfp == prediction.nfp
    assert found.binding == prediction.explain().binding.operator == "experts"
    assert list(found.operators) == [use.name for use in prediction.forward.uses]
    for name, operator in found.operators.items():
        assert operator.exact == near_free_boundary(prediction.curve.restricted((name,)))
        assert operator.nfp >= 1
        assert operator.value == pytest.approx(evaluated(operator.expression, operator.values))
    assert found.expression == found.operators["experts"].expression == closed_form.uniform_expert_positions()
    text = str(found)
    assert text.startswith("Mixtral-8x7B-v0.1 on NVIDIA H100 SXM5 80GB: NFP 1 from 1 at tolerance 0.1")
    assert "binding: experts" in text
    assert all(f"exact {operator.exact.nfp}" in text for operator in found.operators.values())
    assert found.latex().count("N_{") >= len(found.operators)
    assert r"\log" in found.operators["experts"].latex()


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("batch_size", [1, 16, 256])
def test_an_all_reduce_ends_where_its_faster_algorithm_does(ranks: int, batch_size: int) -> None:
    found = principle(
        "h100", "llama-3.1-70b", tensor_parallel=ranks, batch_size=batch_size, context_length=64, backend="vllm"
    )
    operator = found.operators["all_reduce"]
    assert abs(operator.nfp - operator.exact.nfp) <= 1


def test_a_forward_nothing_binds_shows_its_longest_operator() -> None:
    found = principle("h100", "llama-3.1-8b", max_positions=4)
    assert found.prediction.censored
    assert found.binding == ""
    assert "at least 4" in str(found)
    assert found.expression == closed_form.dense_positions()


@pytest.mark.parametrize(
    ("hardware", "model", "arguments", "forms"),
    [
        ("h100", "mixtral", {"baseline": "saturated"}, {"experts": "row blocks"}),
        ("h200", "qwen3-30b-a3b", {"routing": "balanced"}, {"experts": "experts"}),
        ("h100", "qwen3-30b-a3b", {"routing": "power_law:1.2"}, {"experts": "experts"}),
        ("b200", "qwen3-next-80b-a3b", {}, {"linear_scan": "stream", "in_proj": "dense"}),
        ("h100", "llama-3.1-70b", {"tensor_parallel": 8}, {"all_reduce": "stream"}),
    ],
)  # fmt: skip
def test_every_operator_gets_the_form_that_fits(
    hardware: str, model: str, arguments: dict[str, object], forms: dict[str, str]
) -> None:
    found = principle(hardware, model, **arguments)
    for name, form in forms.items():
        operator = found.operators[name]
        assert operator.form == form
        # Streams have no plateau, expert forms no padding to round: they meet the exact search within 15 %.
        assert operator.nfp == pytest.approx(operator.exact.nfp, rel=0.15 if form != "dense" else 0.5)


def test_the_wave_form_ends_where_the_wave_does() -> None:
    # FA2 without split or packing (A100, vLLM, two positions and more): one CTA per (sequence, head, 64 positions).
    found = [
        operator
        for batch in (1, 2, 4, 8)
        for baseline in (2, 8)
        for operator in principle(
            "a100", "llama-2-7b", batch_size=batch, backend="vllm", baseline=baseline, max_positions=512
        ).operators.values()
        if operator.form == "wave"
    ]
    assert found
    for operator in found:
        assert operator.nfp == operator.exact.nfp
