"""Sweeps give what single predictions give, in any executor, with flat memory, and are written whole or not at all."""

from __future__ import annotations

import csv
import json
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from nfp_model import Attention, FusedMoE, Gemm, load_hardware, load_model, operator_latency, predict_nfp
from nfp_model.boundary import near_free_boundary
from nfp_model.cli.sweeping import sweep as sweep_command
from nfp_model.cost.binding import bind
from nfp_model.cost.rates import seconds_over_rates
from nfp_model.curve import LatencyCurve
from nfp_model.errors import InvalidArgumentError, NfpModelError, SpecError, UnknownNameError
from nfp_model.specs.variants import field_value, with_fields
from nfp_model.sweeping import iter_sweep, sweep, sweep_operator, write_csv
from nfp_model.sweeping.operator_grid import BANDWIDTH, PEAK
from nfp_model.sweeping.prediction_grid import _Grid, _tasks, run_chunk
from nfp_model.sweeping.running import IN_FLIGHT

SMALL: dict[str, Any] = {"backend": "vllm", "max_positions": 64}
OPERATORS = (Gemm(4096, 4096), FusedMoE(2048, 768, 128, 8), Attention(32, 8, 128, 4096))


# Specs with fields changed ------------------------------------------------------------------------------------------


def test_a_changed_spec_keeps_its_name_and_everything_else() -> None:
    h100 = load_hardware("h100")
    other = with_fields(h100, {"memory_bandwidth_bytes_per_s": 4.8e12})
    assert other.name == h100.name
    assert other.model_copy(update={"memory_bandwidth_bytes_per_s": 3.35e12, "sources": h100.sources}) == h100


def test_a_number_for_the_peaks_multiplies_all_of_them() -> None:
    h100 = load_hardware("h100")
    twice = with_fields(h100, {"peak_flop_per_s": 2.0})
    assert twice.peak_flop_per_s == {rate: 2.0 * peak for rate, peak in h100.peak_flop_per_s.items()}


def test_a_changed_model_drops_the_counts_of_the_published_one() -> None:
    mixtral = load_model("mixtral")
    more = with_fields(mixtral, {"ffn.moe.num_experts": 16})
    # Eight more experts of three 4096 x 14336 matrices and eight more router rows, in each of 32 layers.
    assert more.total_parameters - mixtral.total_parameters == 32 * 8 * (3 * 4096 * 14336 + 4096)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ffn.moe.topk": 2}, "unknown model field 'ffn.moe.topk'; did you mean 'ffn.moe.top_k'"),
        ({"hidden": 2}, "unknown model field 'hidden'"),
        ({"dtypes.nothing": "fp8"}, "unknown weight group 'nothing'"),
        ({"ffn.moe.top_k": 9}, "top_k 9 exceeds num_experts 8"),
        ({"num_layers": "many"}, "num_layers"),
        ({"layers.0.count": 31}, "layer groups add up to 31 layers, num_layers is 32"),
    ],
)
def test_a_change_no_model_can_have_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(NfpModelError, match=message):
        with_fields(load_model("mixtral"), change)


def test_hardware_changes_of_every_kind_validate() -> None:
    h100 = load_hardware("h100")
    for path, value in (
        ("sm_count", 100), ("l2_bytes", None), ("power_w", 900.0), ("default_tile.attention_rows", 128),
        ("peak_flop_per_s.bfloat16", 1.5e15), ("architecture", "sm100"), ("interconnect.scale_up_domain", 72),
        ("peak_flop_per_s", {"bfloat16": 1e15}),
    ):  # fmt: skip
        assert field_value(with_fields(h100, {path: value}), path) == value
    with pytest.raises(SpecError, match="is it a sparse number"):
        with_fields(h100, {"peak_flop_per_s.fp8": 3.958e15})


# Predictions --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batches() -> Any:
    return sweep("h100", "llama-3.1-8b", batch_size=[1, 4], context_length=[1024, 8192], **SMALL)


def test_every_record_is_the_single_prediction(batches: Any) -> None:
    assert [(r["batch_size"], r["context_length"]) for r in batches] == [(1, 1024), (1, 8192), (4, 1024), (4, 8192)]
    for record in batches:
        alone = predict_nfp(
            "h100", "llama-3.1-8b", batch_size=record["batch_size"], context_length=record["context_length"], **SMALL
        )
        for name in ("nfp", "censored", "first_exit", "baseline_latency_s", "idle_compute_nfp", "binding", "backend"):
            assert record[name] == getattr(alone, name)


def test_results_come_as_array_dataframe_and_json(batches: Any) -> None:
    pandas = pytest.importorskip("pandas")
    assert batches.values("nfp").tolist() == [
        [r["nfp"] for r in batches.records[:2]],
        [r["nfp"] for r in batches.records[2:]],
    ]
    frame = batches.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["nfp"].tolist() == [record["nfp"] for record in batches]
    assert json.loads(batches.to_json()) == [dict(record) for record in batches]
    with pytest.raises(UnknownNameError, match="unknown sweep result 'nfq'; did you mean 'nfp'"):
        batches.values("nfq")


def test_a_field_path_is_an_axis_with_calibration_and_kernels_held() -> None:
    values = [2e12, 3.35e12]
    found = sweep("h100", "llama-3.1-8b", **{BANDWIDTH: values}, **SMALL)
    own = predict_nfp("h100", "llama-3.1-8b", **SMALL)
    assert found.records[1]["baseline_latency_s"] == own.baseline_latency_s
    assert found.records[0]["baseline_latency_s"] > own.baseline_latency_s
    # Idle compute is peak over bandwidth, up to activations: NFP's rival grows as the bandwidth falls.
    ratio = found.records[0]["idle_compute_nfp"] / found.records[1]["idle_compute_nfp"]
    assert ratio == pytest.approx(3.35 / 2)


def test_specs_names_and_model_fields_are_axes_too() -> None:
    found = sweep([load_hardware("h100"), "h200"], "mixtral", **{"model.ffn.moe.top_k": [1, 2]}, **SMALL)
    assert [(r["hardware"], r["model.ffn.moe.top_k"]) for r in found] == [
        ("h100_sxm5", 1), ("h100_sxm5", 2), ("h200", 1), ("h200", 2),
    ]  # fmt: skip
    times = found.values("baseline_latency_s")
    assert (times[:, 0] < times[:, 1]).all()


def test_a_tuple_is_one_value_and_an_array_is_an_axis() -> None:
    found = sweep(
        "h100",
        "llama-3.1-8b",
        batch_size=2,
        context_length=[(100, 3000), 2000],
        tolerance=np.array([0.1, 0.2]),
        **SMALL,
    )
    assert len(found) == 4
    assert found.records[0]["context_length"] == [100, 3000]
    assert all(record["refused"] is None for record in found)


def test_points_that_cannot_run_say_why_and_the_others_stand() -> None:
    found = sweep("a100", "llama-3.1-8b", tensor_parallel=[1, 3], context_length=[4096, 10**6], max_positions=16)
    refused = [record["refused"] for record in found]
    assert refused[0] is None
    assert "tensor_parallel 3 does not divide" in refused[2]
    assert "context_length 1000000 exceeds" in refused[1]
    assert np.isnan(found.values("nfp")).tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_sise": [1]}, "unknown sweep axis 'batch_sise'; did you mean 'batch_size'"),
        ({"batch_size": []}, "sweep axis 'batch_size' is empty"),
        ({"batch_size": 2}, "needs at least one argument or field given as a list"),
        ({"hardware.sm_counts": [1]}, "unknown hardware field 'sm_counts'; did you mean 'sm_count'"),
        ({"model.ffn.moe.top_k": [1]}, "unknown model field 'ffn.moe.top_k'"),
        ({"backend": ["vllm", "vlm"]}, "unknown backend 'vlm'; did you mean 'vllm'"),
    ],
)
def test_a_sweep_over_nothing_known_fails_before_it_starts(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NfpModelError, match=message):
        iter_sweep("h100", "llama-3.1-8b", **arguments)


def test_unknown_specs_fail_before_the_first_prediction() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'h100'"):
        iter_sweep(["h100", "h10"], "llama-3.1-8b")


# Executors and chunks -----------------------------------------------------------------------------------------------


class Counting(Executor):
    """Runs at once and counts what is handed in before the results are taken; sends everything through pickle."""

    def __init__(self) -> None:
        self.submitted = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted += 1
        future: Future[Any] = Future()
        function, arguments = pickle.loads(pickle.dumps((fn, args)))
        future.set_result(pickle.loads(pickle.dumps(function(*arguments))))
        return future


def test_any_executor_gives_the_same_records_in_order() -> None:
    arguments: dict[str, Any] = {"batch_size": [1, 2, 3], "chunk_points": 1, **SMALL}
    here = [record for chunk in iter_sweep("h100", "llama-3.1-8b", **arguments) for record in chunk]
    with ThreadPoolExecutor(2) as pool:
        threads = [r for chunk in iter_sweep("h100", "llama-3.1-8b", executor=pool, **arguments) for r in chunk]
    sent = [r for chunk in iter_sweep("h100", "llama-3.1-8b", executor=Counting(), **arguments) for r in chunk]
    assert here == threads == sent


def test_a_huge_grid_is_neither_listed_nor_submitted_whole() -> None:
    executor = Counting()
    tolerances = np.linspace(0.01, 0.5, 1000)
    chunks = iter_sweep(
        "h100", "llama-3.1-8b", tolerance=tolerances, batch_size=range(1, 10**6), chunk_points=1, executor=executor,
        backend="vllm", max_positions=2,
    )  # fmt: skip
    next(chunks)
    assert executor.submitted <= IN_FLIGHT
    grid = _Grid.of("h100", "llama-3.1-8b", {"tolerance": [0.1], "batch_size": [1, 2, 3]})
    assert [len(task.points) for task in _tasks(grid, 2)] == [2, 1]
    assert run_chunk(next(iter(_tasks(grid, 1))))[0]["batch_size"] == 1


def test_progress_draws_on_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    found = sweep("h100", "llama-3.1-8b", batch_size=[1, 2], progress=True, **SMALL)
    assert len(found) == 2
    assert capsys.readouterr().out == ""


def test_a_dask_cluster_on_one_machine_is_an_executor() -> None:
    """How to spread a sweep with Dask: its client's executor is a ``concurrent.futures.Executor``."""
    distributed = pytest.importorskip("dask.distributed", reason="needs dask.distributed: pip install distributed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = sweep("h100", "llama-3.1-8b", batch_size=[1, 2], executor=client.get_executor(), **SMALL)
    assert found.records == sweep("h100", "llama-3.1-8b", batch_size=[1, 2], **SMALL).records


# Files --------------------------------------------------------------------------------------------------------------


def test_csv_reads_back(batches: Any, tmp_path: Path) -> None:
    batches.to_csv(tmp_path / "found.csv")
    rows = list(csv.DictReader((tmp_path / "found.csv").read_text(encoding="utf-8").splitlines()))
    assert [int(row["nfp"]) for row in rows] == [record["nfp"] for record in batches]
    assert [float(row["baseline_latency_s"]) for row in rows] == [r["baseline_latency_s"] for r in batches]


def test_a_failure_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "found.csv"
    path.write_text("before")

    def broken() -> Iterator[list[dict[str, int]]]:
        yield [{"n": 1}]
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_csv(path, broken())
    with pytest.raises(InvalidArgumentError, match="nothing to write"):
        write_csv(path, [])
    assert path.read_text() == "before"
    assert [item.name for item in tmp_path.iterdir()] == ["found.csv"]
    with pytest.raises(InvalidArgumentError, match="cannot be written"):
        write_csv(tmp_path / "missing" / "found.csv", [[{"n": 1}]])


# Operators ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: type(operator).__name__)
def test_rates_evaluated_together_are_single_chips(operator: Any) -> None:
    tokens = [1, 7, 64, 513]
    found = sweep_operator(
        "h100", operator, tokens, **{PEAK: [0.5, 1.0], BANDWIDTH: [1e12, 5e12, 9e12]}, backend="vllm"
    )
    assert list(found.axes) == [PEAK, BANDWIDTH, "tokens"]
    assert found.values.shape == (2, 3, 4)
    for (i, factor), (j, bandwidth) in ((a, b) for a in enumerate([0.5, 1.0]) for b in enumerate([1e12, 5e12, 9e12])):
        chip = with_fields(
            load_hardware("h100"), {"peak_flop_per_s": factor, "memory_bandwidth_bytes_per_s": bandwidth}
        )
        np.testing.assert_allclose(found.values[i, j], operator_latency(chip, operator, tokens, "vllm"), rtol=1e-12)


def test_shapes_are_bound_one_by_one() -> None:
    found = sweep_operator(
        "h100", FusedMoE(2048, 768, 128, 8), [4, 64], top_k=[4, 8], **{"hardware.sm_count": [66, 132]}, backend="vllm"
    )
    assert list(found.axes) == ["top_k", "hardware.sm_count", "tokens"]
    chip = with_fields(load_hardware("h100"), {"sm_count": 66})
    alone = operator_latency(chip, FusedMoE(2048, 768, 128, 4), [4, 64], "vllm")
    np.testing.assert_array_equal(found.values[0, 0], alone)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: type(operator).__name__)
def test_near_free_ranges_are_those_of_every_token_count(operator: Any) -> None:
    bandwidths = [5e11, 3.35e12, 2e13]
    found = sweep_operator(
        "h100", operator, tolerance=0.15, baseline=2, max_tokens=1500, **{BANDWIDTH: bandwidths}, backend="vllm"
    )
    assert found.quantity == "nfp"
    every = np.arange(2, 1501)
    for index, bandwidth in enumerate(bandwidths):
        chip = with_fields(load_hardware("h100"), {"memory_bandwidth_bytes_per_s": bandwidth})
        curve = LatencyCurve.measured(every, operator_latency(chip, operator, every, "vllm"))
        assert found.values[index] == near_free_boundary(curve, 0.15, 2).nfp


@settings(max_examples=30)
@given(
    operator=st.sampled_from(OPERATORS),
    tokens=st.integers(1, 3000),
    rates=st.lists(st.floats(0.05, 20.0), min_size=2, max_size=4),
)
def test_no_latency_rises_with_a_rate(operator: Any, tokens: int, rates: list[float]) -> None:
    # What the interval proof of the inverse questions rests on.
    bound = bind(load_hardware("h100"), operator, "vllm")
    ordered, ones = np.sort(rates), np.ones(len(rates))
    for pair in ((ordered, ones), (ones, ordered), (ordered, ordered)):
        seconds = seconds_over_rates(bound, np.array([tokens]), *pair)[:, 0]
        assert (np.diff(seconds) <= 1e-12 * seconds[:-1]).all()


def test_memory_stays_flat_but_for_the_answer() -> None:
    bandwidths = np.linspace(1e12, 8e12, 200)

    def working_bytes(points: int) -> float:
        tokens = np.arange(1, points // bandwidths.size + 1)
        tracemalloc.start()
        found = sweep_operator("h100", FusedMoE(4096, 14336, 8, 2), tokens, **{BANDWIDTH: bandwidths}, backend="vllm")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.size == points
        return peak - found.values.nbytes

    working_bytes(20_000)
    assert working_bytes(400_000) < 1.5 * working_bytes(100_000)


def test_executors_and_files_of_operator_sweeps(tmp_path: Path) -> None:
    axes: dict[str, Any] = {"out_features": [1024, 4096], BANDWIDTH: [1e12, 2e12, 3e12]}
    here = sweep_operator("h100", Gemm(4096, 4096), [1, 2], **axes)
    sent = sweep_operator("h100", Gemm(4096, 4096), [1, 2], executor=Counting(), progress=True, **axes)
    np.testing.assert_array_equal(here.values, sent.values)
    here.to_csv(tmp_path / "points.csv")
    rows = list(csv.DictReader((tmp_path / "points.csv").read_text(encoding="utf-8").splitlines()))
    assert [float(row["seconds"]) for row in rows] == here.values.ravel().tolist()
    frame = here.to_dataframe()
    where = (frame["out_features"] == 4096) & (frame[BANDWIDTH] == 2e12) & (frame["tokens"] == 2)
    alone = with_fields(load_hardware("h100"), {"memory_bandwidth_bytes_per_s": 2e12})
    assert frame["seconds"][where].item() == pytest.approx(operator_latency(alone, Gemm(4096, 4096), [2])[0], rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give tokens for latencies or tolerance for near-free ranges"),
        ({"tokens": [1], "tolerance": 0.1}, "not both or neither"),
        ({"tokens": []}, "sweep axis 'tokens' is empty"),
        ({"tokens": [0]}, "whole numbers of at least 1"),
        ({"tolerance": 0.1}, "at least one axis"),
        ({"tokens": [1], "out_feature": [1]}, "unknown field of Gemm 'out_feature'; did you mean 'out_features'"),
        ({"tokens": [1], "hardware.sm_coun": [1]}, "did you mean 'sm_count'"),
        ({"tokens": [1], "out_features": 8}, "'out_features' must be a list or array"),
        ({"tokens": [1], "out_features": []}, "sweep axis 'out_features' is empty"),
        ({"tokens": [1], BANDWIDTH: [0.0]}, "must be a finite number above 0"),
        ({"tolerance": 0.1, "baseline": 9, "max_tokens": 4, PEAK: [1.0]}, "baseline 9 exceeds max_tokens 4"),
    ],
)
def test_bad_operator_grids_say_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NfpModelError, match=message):
        sweep_operator("h100", Gemm(1024, 1024), **arguments)


# Command line -------------------------------------------------------------------------------------------------------

APP = typer.Typer()
APP.command("sweep")(sweep_command)
APP.command("other")(lambda: None)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(APP, ["sweep", *arguments])


def test_the_command_prints_the_librarys_records() -> None:
    done = run("h100", "llama-3.1-8b", "-b", "1,4", "--max-positions", "64", "--backend", "vllm", "--json")
    assert done.exit_code == 0, done.output
    expected = sweep("h100", "llama-3.1-8b", batch_size=[1, 4], **SMALL)
    assert json.loads(done.stdout) == json.loads(expected.to_json())


def test_the_command_takes_fields_and_counts_refusals() -> None:
    done = run("a100", "mixtral", "--tp", "1,3", "--set", "model.ffn.moe.top_k=1,2", "--max-positions", "16")
    assert done.exit_code == 0, done.output
    assert "2 predicted, 2 refused" in done.stdout
    assert "top_k" in done.stdout.splitlines()[0]


def test_the_command_writes_csv(tmp_path: Path) -> None:
    path = tmp_path / "found.csv"
    done = run("h100", "llama-3.1-8b", "-b", "1,2", "--max-positions", "16", "--csv", str(path))
    assert done.exit_code == 0, done.output
    assert "2 records" in done.output
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-b", "1,,2"), "batch_size has an empty value"),
        (("--set", "hardware.sm_count"), "--set takes NAME=V1,V2"),
        (("--set", "hardware.sm_cuont=1"), "did you mean 'sm_count'"),
        (("--captures", "1,2"), "captures takes engines in a sweep"),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    done = run("h100", "llama-3.1-8b", *arguments)
    assert isinstance(done.exception, NfpModelError)
    assert message in str(done.exception)
