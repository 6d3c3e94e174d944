"""The measuring driver on a fake device with a fake clock: no number here was timed, and none is claimed to be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from nfp_model.errors import InvalidArgumentError, MissingDependencyError, NfpModelError, SpecError, UnknownNameError
from nfp_model.operators import Attention
from nfp_model.specs.registry import load_model
from nfp_model.validation import cases as cases_module, measure as measure_module
from nfp_model.validation.cases import KEY_COLUMNS, KINDS, Case, cases_of, dense_shapes, operator_of
from nfp_model.validation.measure import run_measurement
from nfp_model.validation.moe_routing import draw_routing, power_law_loads, row_blocks
from nfp_model.validation.plan import TimeBudget, boundary_size, coarse_sizes, next_size, step_edges
from nfp_model.validation.recorded import is_recorded, read_recorded
from nfp_model.validation.store import RecordStore, columns_of
from nfp_model.validation.timing import (
    CannotMeasure,
    DeviceLost,
    DeviceState,
    Samples,
    executions_per_graph,
    repeats_for,
    rotation_copies,
    sample,
)

FAKE = Case("gemm", ("fake", 256, 128, "bfloat16", "linear"), largest=512)


@dataclass
class FakeClock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def staircase(size: int) -> float:
    """An invented curve: steps after 64, 128, 192 and so on."""
    return 1e-5 * (1 + 0.5 * math.ceil(size / 64))


@dataclass
class FakeBackend:
    """A device whose every timing is a formula and takes a fixed time of the fake clock."""

    clock: FakeClock
    curve: Callable[[int], float] = staircase
    cost_s: float = 1.0
    asked: list[tuple[str, int]] = field(default_factory=list)
    released: int = 0
    versions: dict[str, str] = field(default_factory=lambda: {"device": "Fake GPU", "driver": "0", "torch": "0.0"})
    fails_at: Mapping[int, Exception] = field(default_factory=dict)

    def environment(self) -> Mapping[str, str]:
        return self.versions

    def device_state(self) -> DeviceState:
        return DeviceState(1000, 40)

    def time(self, case: Case, positions: int, l2_state: str) -> Samples:
        self.clock.now += self.cost_s
        self.asked.append((str(case), positions))
        if positions in self.fails_at:
            raise self.fails_at[positions]
        seconds = self.curve(positions)
        return Samples((0.99 * seconds, seconds, 1.01 * seconds), 4, 2, l2_state)

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def one_case(monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(measure_module, "cases_of", lambda kind: (FAKE,))
    return FAKE


def run(path: Path, backend: FakeBackend, minutes: float = 1e3, **more: object) -> measure_module.MeasurementReport:
    return run_measurement(
        "gemm", out=path, minutes=minutes, backend=backend, clock=backend.clock, progress=False, **more
    )


# --- the driver ---------------------------------------------------------------------------------------------------


def test_adaptive_grid_finds_every_injected_step(tmp_path: Path, one_case: Case) -> None:
    backend = FakeBackend(FakeClock())
    report = run(tmp_path / "x.csv", backend)
    store = RecordStore(tmp_path / "x.csv", "gemm", {})
    measured = store.measured(FAKE, "cold")
    for edge in range(64, 512, 64):
        assert edge in measured, edge
        assert edge + 1 in measured, edge
    assert len(measured) == report.measured < 100  # of 512 sizes
    assert report.complete


def test_finished_points_are_never_measured_again(tmp_path: Path, one_case: Case) -> None:
    path, first = tmp_path / "x.csv", FakeBackend(FakeClock())
    run(path, first, minutes=0.5)
    second = FakeBackend(FakeClock())
    report = run(path, second)
    assert report.already_there > 0
    assert not set(first.asked) & set(second.asked)
    third = FakeBackend(FakeClock())
    assert run(path, third).measured == 0
    assert third.asked == []


def test_a_stopped_run_continues_to_the_same_points(tmp_path: Path, one_case: Case) -> None:
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    run(whole, FakeBackend(FakeClock()))
    while not run(parts, FakeBackend(FakeClock()), minutes=0.2).complete:
        pass
    points = [RecordStore(path, "gemm", {}).points for path in (whole, parts)]
    assert points[0] == points[1]


def test_budget_is_kept(tmp_path: Path, one_case: Case) -> None:
    clock = FakeClock()
    backend = FakeBackend(clock, cost_s=7.0)
    report = run(tmp_path / "x.csv", backend, minutes=1.0)
    assert not report.complete
    assert clock.now <= 60.0
    assert len(backend.asked) == 8


def test_time_left_is_shared_over_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = tuple(Case("gemm", (f"fake{i}", 256, 128 + i, "bfloat16", "linear"), largest=512) for i in range(3))
    monkeypatch.setattr(measure_module, "cases_of", lambda kind: several)
    backend = FakeBackend(FakeClock())
    run(tmp_path / "x.csv", backend, minutes=1.0)
    counts = [sum(name == str(case) for name, _ in backend.asked) for case in several]
    assert min(counts) >= 10  # each has its coarse grid
    assert sum(counts) <= 60
    assert backend.released == 3


def test_coarse_grids_of_a_group_come_before_refinement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ("llama_3_1_8b", 32, "llama", "verify", "bfloat16", "flash")
    group = tuple(Case("forward", key, batch, 1024, largest=256) for batch in (1, 8))
    monkeypatch.setattr(measure_module, "cases_of", lambda kind: group)
    backend = FakeBackend(FakeClock())
    run_measurement(
        "forward", out=tmp_path / "x.csv", minutes=9.0, backend=backend, clock=backend.clock, progress=False
    )
    coarse = coarse_sizes(256)
    assert backend.asked[: 2 * len(coarse)] == [(str(case), size) for case in group for size in coarse]


def test_both_sides_of_each_predicted_step_are_measured(tmp_path: Path, one_case: Case) -> None:
    def predictor(case: Case, sizes: Sequence[int]) -> Sequence[float]:
        return [1.0 + (size > 48) + (size > 200) for size in sizes]

    backend = FakeBackend(FakeClock(), curve=lambda size: 1e-5)
    run(tmp_path / "x.csv", backend, predictor=predictor)
    assert {48, 49, 200, 201} <= {size for _, size in backend.asked}
    assert len(backend.asked) == len(coarse_sizes(512)) + 4  # and nothing else: the curve is flat


def test_a_refused_case_is_noted_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = Case("gemm", ("other", 256, 256, "bfloat16", "linear"), largest=4)
    monkeypatch.setattr(measure_module, "cases_of", lambda kind: (FAKE, second))
    backend = FakeBackend(FakeClock(), fails_at={8: CannotMeasure("out of device memory")})
    report = run(tmp_path / "x.csv", backend)
    assert report.refused == {str(FAKE): "out of device memory"}
    assert f"# refused {FAKE} at 8: out of device memory\n" in (tmp_path / "x.csv").read_text()
    assert (str(second), 4) in backend.asked


def test_a_case_that_loses_the_device_is_left_out_next_time(tmp_path: Path, one_case: Case) -> None:
    path = tmp_path / "x.csv"
    broken = FakeBackend(FakeClock(), fails_at={8: DeviceLost("the CUDA context is lost")})
    with pytest.raises(DeviceLost, match="context is lost"):
        run(path, broken)
    again = FakeBackend(FakeClock())
    report = run(path, again)
    assert again.asked == []
    assert report.refused == {str(FAKE): "it broke the CUDA context before"}
    assert len(RecordStore(path, "gemm", {}).points) == 3  # 1, 2 and 4 were kept


def test_stop_ratio_ends_the_coarse_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("attention", (32, 8, 128, 1, "bfloat16", "sdpa_flash"), 1, 4096, largest=512, stop_ratio=16.0)
    monkeypatch.setattr(measure_module, "cases_of", lambda kind: (case,))
    backend = FakeBackend(FakeClock(), curve=lambda size: 1e-5 * size)
    run_measurement(
        "attention", out=tmp_path / "x.csv", minutes=0.12, backend=backend, clock=backend.clock, progress=False
    )
    assert [size for _, size in backend.asked][:6] == [1, 2, 4, 8, 16, 32]
    assert max(size for _, size in backend.asked) == 32


# --- the file -----------------------------------------------------------------------------------------------------


def test_header_columns_and_values(tmp_path: Path, one_case: Case) -> None:
    path = tmp_path / "deep" / "x.csv"
    run(path, FakeBackend(FakeClock()), minutes=0.1, command="nfp measure gemm", hardware="h200_sxm")
    lines = path.read_text().splitlines()
    header = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    assert {"command", "date", "hardware", "device", "driver", "torch", "method", "units", "l2_state"} <= set(header)
    assert header["command"] == "nfp measure gemm"
    assert header["hardware"] == "h200_sxm"
    rows = [line for line in lines if not line.startswith("#")]
    assert rows[0].split(",") == list(columns_of("gemm"))
    # Three samples at 0.99, 1 and 1.01 of 15 us: the 10 % quantile lies a fifth of the way from the first to the second.
    named, sizes, times = "gemm,fake,256,128,bfloat16,linear", "1,1,1,0", "1.5e-05,1.488e-05,1.512e-05"
    assert rows[1] == f"{named},{sizes},{times},3,4,2,cold,1000,1000,40,40,"


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_dropped_and_measured_again(tmp_path: Path, one_case: Case, cut: int) -> None:
    path = tmp_path / "x.csv"
    run(path, FakeBackend(FakeClock()), minutes=0.1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    store = RecordStore(path, "gemm", {})
    assert store.dropped == 1
    assert sorted(store.measured(FAKE, "cold")) == [1, 2, 4, 8]
    assert path.read_bytes() == whole[: whole[:-1].rfind(b"\n") + 1]
    backend = FakeBackend(FakeClock())
    run(path, backend, minutes=0.03)
    assert backend.asked == [(str(FAKE), 16)]
    assert "1 torn lines dropped" not in path.read_text()  # dropped above, before this run


def test_cutting_the_file_anywhere_loses_at_most_the_torn_line(tmp_path: Path, one_case: Case) -> None:
    path = tmp_path / "x.csv"
    run(path, FakeBackend(FakeClock()), minutes=0.1)
    whole = path.read_bytes()
    start = whole.index(b"operator,")
    start = whole.index(b"\n", start) + 1
    for end in range(start, len(whole) + 1):
        path.write_bytes(whole[:end])
        kept = len(RecordStore(path, "gemm", {}).points)
        assert kept == whole[start:end].count(b"\n")


def test_warm_points_are_other_points(tmp_path: Path, one_case: Case) -> None:
    path = tmp_path / "x.csv"
    run(path, FakeBackend(FakeClock()), minutes=0.05)
    warm = FakeBackend(FakeClock())
    run(path, warm, minutes=0.05, l2_state="warm")
    store = RecordStore(path, "gemm", {})
    assert sorted(store.measured(FAKE, "warm")) == sorted(store.measured(FAKE, "cold")) == [1, 2]


def test_another_device_or_version_is_refused(tmp_path: Path, one_case: Case) -> None:
    path = tmp_path / "x.csv"
    run(path, FakeBackend(FakeClock()), minutes=0.05)
    other = FakeBackend(FakeClock(), versions={"device": "Another GPU", "driver": "0", "torch": "0.0"})
    with pytest.raises(SpecError, match=r"measured with device Fake GPU, this is Another GPU; choose another --out"):
        run(path, other)
    assert other.asked == []


def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, one_case: Case) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SpecError, match="not a file of gemm measurements"):
        run(path, FakeBackend(FakeClock()))
    assert path.read_text() == "a,b\n1,2\n"


def test_recorded_files_become_measurements(tmp_path: Path, one_case: Case) -> None:
    path = tmp_path / "x.csv"
    run(path, FakeBackend(FakeClock()), minutes=0.2, hardware="h200_sxm")
    assert is_recorded(path)
    points = read_recorded(path)
    assert [point.tokens for point in points[:4]] == [1, 2, 4, 8]
    assert points[0].shape.split_key == "gemm|256|128"
    assert points[0].gpu == "h200_sxm"
    assert points[0].seconds == pytest.approx(staircase(1))
    with pytest.raises(SpecError, match="no points of implementation 'scaled_mm'"):
        read_recorded(path, "scaled_mm")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ceilings"])
def test_every_kind_becomes_measurements(tmp_path: Path, kind: str) -> None:
    backend = FakeBackend(FakeClock())
    path = tmp_path / "x.csv"
    run_measurement(kind, out=path, minutes=0.2, backend=backend, clock=backend.clock, progress=False)
    first = cases_of(kind)[0]
    point = read_recorded(path)[0]
    assert point.operator == kind
    assert point.backend == "torch"
    assert str(first["implementation"]) in point.kernel_source


# --- errors -------------------------------------------------------------------------------------------------------


def test_without_a_device_the_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(
        MissingDependencyError, match=r"^no CUDA device found; torch is not installed \(pip install"
    ) as caught:
        run_measurement("gemm", out=tmp_path / "x.csv", minutes=1.0, progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.csv").exists()


def test_a_torch_that_sees_no_device_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType, SimpleNamespace

    blind = ModuleType("torch")
    blind.__dict__.update(cuda=SimpleNamespace(is_available=lambda: False), __version__="0.0+cpu")
    monkeypatch.setitem(sys.modules, "torch", blind)
    with pytest.raises(NfpModelError, match=r"^no CUDA device found; torch 0\.0\+cpu sees none") as caught:
        run_measurement("gemm", out=tmp_path / "x.csv", minutes=1.0, progress=False)
    assert "\n" not in str(caught.value)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    path, backend = tmp_path / "x.csv", FakeBackend(FakeClock())
    with pytest.raises(UnknownNameError, match="unknown kind of measurement 'atention'; did you mean 'attention'"):
        run_measurement("atention", out=path, minutes=1.0, backend=backend)
    with pytest.raises(InvalidArgumentError, match="minutes must be a finite number above 0, got 0"):
        run_measurement("gemm", out=path, minutes=0, backend=backend)
    with pytest.raises(InvalidArgumentError, match="no gemm case is named like 'gpt-5'"):
        run_measurement("gemm", out=path, minutes=1.0, backend=backend, only="gpt-5")
    with pytest.raises(UnknownNameError, match="unknown l2_state 'hot'"):
        run_measurement("gemm", out=path, minutes=1.0, backend=backend, l2_state="hot")


# --- the plan -----------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(1, 511), max_size=4))
def test_any_steps_are_pinned_to_one_position(edges: set[int]) -> None:
    def curve(size: int) -> float:
        return 1.0 + sum(size > edge for edge in edges)

    measured: dict[int, float] = {}
    while (size := next_size(measured, coarse_sizes(512))) is not None:
        assert size not in measured
        measured[size] = curve(size)
    sizes = sorted(measured)
    assert set(step_edges(sizes, [measured[size] for size in sizes])) == edges
    assert all(edge + 1 in measured for edge in edges)


@given(st.lists(st.integers(2, 1023), min_size=1, max_size=5, unique=True), st.sampled_from([0.1, 0.2, 0.5]))
def test_boundaries_are_closed_in_on(edges: list[int], tolerance: float) -> None:
    def curve(size: int) -> float:
        return 1.0 + 0.15 * sum(size > edge for edge in edges)

    measured = {size: curve(size) for size in coarse_sizes(1024)}
    asked = 0
    while (size := boundary_size(measured, (1,), (tolerance,))) is not None:
        assert size not in measured
        measured[size] = curve(size)
        asked += 1
    free = max(size for size in range(1, 1025) if curve(size) <= 1 + tolerance)
    found = max(size for size in measured if measured[size] <= 1 + tolerance)
    assert found <= free <= found + max(1, found / 32)
    assert asked <= 10


def test_boundaries_come_before_other_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("gemm", ("fake", 256, 128, "bfloat16", "linear"), largest=512, baselines=(1,))
    monkeypatch.setattr(measure_module, "cases_of", lambda kind: (case,))
    backend = FakeBackend(FakeClock(), curve=lambda size: 1e-5 * (1 + 0.25 * (size > 100) + 5 * (size > 300)))
    run(tmp_path / "x.csv", backend)
    after = [size for _, size in backend.asked][len(coarse_sizes(512)) :]
    assert all(64 < size < 128 or 256 < size < 512 for size in after)
    assert after.index(next(size for size in after if size < 128)) == 0  # the first boundary before the larger step


def test_a_slope_is_left_once_it_rises_little() -> None:
    measured: dict[int, float] = {}
    while (size := next_size(measured, coarse_sizes(1024), threshold=0.1)) is not None:
        measured[size] = 1.0 + size / 1024
    assert len(measured) < 40


def test_budget_shares_what_earlier_groups_saved() -> None:
    clock = FakeClock()
    budget = TimeBudget(90.0, clock)
    assert budget.share(3) == 30.0
    clock.now = 10.0
    assert budget.share(2) == 40.0


# --- timing arithmetic --------------------------------------------------------------------------------------------


def test_rotation_streams_sixteen_caches_between_uses() -> None:
    # 4096 x 4096 bf16 weights (33.6 MB) and a 60 MiB cache: 16 x 62914560 / 33554432 = 30 copies.
    assert rotation_copies(4096 * 4096 * 2, 60 * 2**20, 4096 * 4096 * 2, 100e9) == (30, "cold")
    assert rotation_copies(16e9, 60e6, 16e9, 100e9) == (1, "cold")  # larger than any cache by itself
    assert rotation_copies(1e3, 60e6, 1e3, 100e9) == (512, "partial")  # 512 kB are within the cache
    assert rotation_copies(40e6, 60e6, 1e9, 2.2e9) == (1, "partial")  # memory allows one


def test_rotation_refuses_what_does_not_fit() -> None:
    with pytest.raises(CannotMeasure, match=r"needs 140\.0 GB, 90\.0 GB of device memory are free"):
        rotation_copies(140e9, 60e6, 140e9, 90e9)


@given(st.floats(1e3, 1e11), st.floats(1e6, 2e8), st.floats(1e9, 2e11))
def test_cold_means_the_copies_exceed_the_cache_twice(footprint: float, l2: float, free: float) -> None:
    if footprint > 0.6 * free:
        return
    copies, label = rotation_copies(footprint, l2, footprint, free)
    assert (label == "cold") == (copies * footprint >= 2 * l2)
    assert copies * footprint <= free


def test_graph_is_whole_turns_and_long_enough() -> None:
    assert executions_per_graph(30, 10e-6) == 120
    assert executions_per_graph(1, 5e-3) == 1
    assert [repeats_for(seconds) for seconds in (1e-4, 5e-3, 1.0)] == [100, 30, 7]


class FakeTimer:
    """Replays that take what their executions take, plus nothing: the arithmetic is what is tested."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.captures, self.ran = seconds, [], []

    def capture(self, execute: Callable[[int], object], executions: int) -> None:
        self.captures.append(executions)
        self.ran = [execute(i) for i in range(executions)]

    def replay(self, repeats: int) -> list[float]:
        return [self.captures[-1] * self.seconds] * repeats


def test_sample_divides_by_executions_and_rotates() -> None:
    timer = FakeTimer(2e-5)
    samples = sample(timer, lambda i: i % 8, copies=8, l2_state="cold")
    assert timer.captures == [8, 56]  # 8 x ceil(1 ms / 160 us)
    assert samples.quantiles() == pytest.approx((2e-5, 2e-5, 2e-5))
    assert [timer.ran.count(copy) for copy in range(8)] == [7] * 8
    assert (samples.executions, samples.copies, len(samples.seconds)) == (56, 8, 100)


# --- cases --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_cases_are_named_once_and_fully(kind: str) -> None:
    cases = cases_of(kind)
    assert len({str(case) for case in cases}) == len(cases) > 0
    assert all(len(case.key) == len(KEY_COLUMNS[kind]) for case in cases)


def test_cases_cover_what_was_asked() -> None:
    attention = cases_of("attention")
    assert {case.number("num_query_heads") // case.number("num_kv_heads") for case in attention} == {1, 4, 8, 16}
    assert {case.context for case in attention} >= {1024, 131072}
    assert {case.batch for case in attention} == {1, 8, 64}
    assert {case.number("causal") for case in attention} == {0, 1}
    moe = cases_of("moe")
    assert {case.number("block_rows") for case in moe if case["implementation"] == "triton"} == {16, 32, 64, 128}
    assert {case["routing"] for case in moe} == {"uniform", "power_law:1.2"}
    forward = cases_of("forward")
    assert {case["model"] for case in forward} == {
        "llama_3_1_8b", "qwen3_8b", "qwen3_30b_a3b", "mixtral_8x7b", "llada_8b", "llada2_0_mini",
    }  # fmt: skip
    assert {case.batch for case in forward} == {1, 8, 32}
    assert len({case.context for case in forward}) == 2


def test_deepseek_rank_holds_an_eighth_of_the_experts() -> None:
    rank = next(case for case in cases_of("moe") if str(case["shape"]).startswith("deepseek_v3"))
    # 256 experts, top-8, 8 ranks (DeepSeek-V3 config.json): 32 experts, one choice a token falls here on average.
    assert (rank.number("num_experts"), rank.number("top_k")) == (32, 1)


def test_dense_shapes_add_up_to_the_layer() -> None:
    model = load_model("llama_3_1_8b")
    shapes = {name.split(".")[1]: n * k for (n, k), name in dense_shapes(model).items()}
    layer = shapes["qkv"] + shapes["o"] + shapes["gate_up"] + shapes["down"]
    embeddings, norms = 2 * model.embedding_parameters, (2 * model.num_layers + 1) * model.hidden_size
    assert model.num_layers * layer + embeddings + norms == model.total_parameters


def test_cases_become_operators() -> None:
    assert all(operator_of(case) is not None for kind in ("gemm", "moe", "attention") for case in cases_of(kind))
    assert operator_of(cases_of("forward")[0]) is None
    case = next(case for case in cases_of("attention") if case.batch == 8 and case["causal"] == 0)
    operator = operator_of(case)
    assert isinstance(operator, Attention)
    assert (operator.batch_size, operator.causal, operator.context_length) == (8, False, case.context)


def test_a_case_refuses_a_key_of_another_kind() -> None:
    with pytest.raises(InvalidArgumentError, match="a gemm case is named by shape, out_features"):
        Case("gemm", ("copy",))
    with pytest.raises(UnknownNameError, match="unknown kind of measurement 'gem'"):
        cases_module.cases_of("gem")


# --- routing ------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(["uniform", "power_law:1.0", "power_law:1.2"]), st.integers(1, 80), st.integers(1, 40), st.data()
)
def test_every_token_visits_distinct_experts(routing: str, tokens: int, experts: int, data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, experts))
    chosen = draw_routing(routing, tokens, experts, top_k, np.random.default_rng(0))
    assert chosen.shape == (tokens, top_k)
    assert chosen.min() >= 0
    assert chosen.max() < experts
    assert all(len(set(row)) == top_k for row in chosen.tolist())


@given(st.floats(0.5, 3.0), st.integers(1, 300), st.integers(1, 64), st.data())
def test_power_law_loads_are_complete_and_sorted(a: float, tokens: int, experts: int, data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, experts))
    loads = power_law_loads(a, tokens, experts, top_k)
    assert loads.sum() == tokens * top_k
    assert loads.max() <= tokens
    assert loads.min() >= 0


@given(st.integers(1, 60), st.integers(1, 16), st.sampled_from([16, 32, 64, 128]))
def test_row_blocks_cover_every_row_once(tokens: int, experts: int, block_rows: int) -> None:
    chosen = draw_routing("uniform", tokens, experts, 1, np.random.default_rng(1))
    order, block_expert, edges = row_blocks(chosen, experts, block_rows)
    assert sorted(order.tolist()) == list(range(tokens))
    covered = [row for start, end in edges.tolist() for row in range(start, end)]
    assert covered == list(range(tokens))
    assert all(0 < end - start <= block_rows for start, end in edges.tolist())
    for expert, (start, end) in zip(block_expert.tolist(), edges.tolist(), strict=True):
        assert {int(chosen.reshape(-1)[row]) for row in order[start:end]} == {expert}
    counts = np.bincount(chosen.reshape(-1), minlength=experts)
    assert len(block_expert) == sum(math.ceil(count / block_rows) for count in counts)
