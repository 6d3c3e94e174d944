"""Our own H100 timings (validation/data/h100): the files, the constants fitted on them, whole forwards they never saw."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from nfp_model.boundary import near_free_boundary
from nfp_model.curve import LatencyCurve
from nfp_model.errors import SpecError
from nfp_model.kernels.steps import walked_elements
from nfp_model.operators import Elementwise, FusedMoE, Gemm, forward_operators
from nfp_model.operators.pieces import UNFUSED
from nfp_model.prediction import operator_latency
from nfp_model.specs.calibration import load_calibration
from nfp_model.specs.registry import load_hardware, load_model
from nfp_model.validation import forward_kernels, kernel_names
from nfp_model.validation.calibrating import fit_calibration
from nfp_model.validation.cases import forward_model
from nfp_model.validation.datasets import curves_of
from nfp_model.validation.forwards import agreement, forward_settings, module_settings
from nfp_model.validation.recorded import is_recorded, read_recorded, read_timings
from nfp_model.workload import Workload

DATA = Path(__file__).parents[2] / "validation" / "data" / "h100"
MEASURED = ("attention", "elementwise", "forward", "gemm", "moe")


def rows(name: str) -> list[dict[str, str]]:
    with open(DATA / f"{name}.csv", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


# --- the files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name"), [(kernel_names, "gemm_kernels"), (forward_kernels, "forward_kernels")])
def test_listing_commands_write_the_head_of_the_shipped_listings(
    module: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head: dict[str, str] = {}
    lines = (DATA / f"{name}.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    for line in lines:
        if line.startswith("# ") and (entry := line[2:].rstrip("\n").split(": ", 1))[0] not in head:
            head[entry[0]] = entry[-1]
    environment = {key: head[key] for key in head if key not in ("title", "command", "units", "licence", "not listed")}
    stub = SimpleNamespace(torch=None, environment=lambda: environment)
    monkeypatch.setattr("nfp_model.validation.cuda_backend.CudaBackend", lambda: stub)
    monkeypatch.setattr(module, "cases_of", lambda kind: ())
    monkeypatch.setattr(module, "THIN", (), raising=False)
    out = tmp_path / "h100" / f"{name}.csv"
    out.parent.mkdir()
    module.main(out)
    written = out.read_text(encoding="utf-8").splitlines(keepends=True)
    assert written == lines[: len(written)]
    assert len(written) > len(environment)


@pytest.mark.parametrize("name", [*MEASURED, "ceilings"])
def test_every_file_says_how_it_was_made(name: str) -> None:
    text = (DATA / f"{name}.csv").read_text(encoding="utf-8")
    header = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("# ") and ": " in line)
    assert {"command", "date", "device", "driver", "torch", "clocks", "method", "units", "licence"} <= set(header)
    assert header["hardware"] == "h100_sxm5"
    assert is_recorded(DATA / f"{name}.csv")


def test_the_data_set_is_small() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 5e6


def test_ceilings_are_those_of_the_chip() -> None:
    spec = load_hardware("h100_sxm5")
    by_probe = {(row["probe"], int(row["positions"])): float(row["seconds_median"]) for row in rows("ceilings")}
    copied = 2 * 8192 * 2**20 / by_probe["copy", 8192]
    # The datasheet's bandwidth bounds a copy; clocks were free, so a sustained product stays below the peak.
    assert 0.7 * spec.memory_bandwidth_bytes_per_s < copied < spec.memory_bandwidth_bytes_per_s
    rate = 2 * 8192**3 / by_probe["matmul_bfloat16", 8192]
    assert 0.5 * spec.peak_flop_per_s["bfloat16"] < rate < spec.peak_flop_per_s["bfloat16"]


def test_no_weights_arrive_faster_than_memory_delivers() -> None:
    bandwidth = load_hardware("h100_sxm5").memory_bandwidth_bytes_per_s
    for row in rows("gemm"):
        size = int(row["out_features"]) * int(row["in_features"]) * (2 if row["weight_dtype"] == "bfloat16" else 1)
        assert size / float(row["seconds_median"]) < bandwidth, row


# --- what transformers launches -----------------------------------------------------------------------------------


def test_launches_of_every_piece_are_those_the_profiler_counted() -> None:
    counted = {row["work"]: int(re.search(r"kernels=(\d+)", row["note"])[1]) for row in rows("elementwise")}  # type: ignore[index]
    # One fill of the bench beside the cache update, the router's own GEMM; rotary's ten kernels are listed by their time.
    assert counted["cache_update"] == UNFUSED["cache_update"].launches + 1
    assert counted["router"] == UNFUSED["router"].launches + 1
    assert counted["rotary"] == 10
    for work in ("rms_norm", "residual", "activation"):
        assert counted[work] == UNFUSED[work].launches
    assert counted["attention_output"] == UNFUSED["attention_output"].several_rows_launches


def test_a_mean_takes_as_long_as_its_threads_walk() -> None:
    # The profiler's own durations of the norm's mean inside whole forwards: 2.3 us with one position, 9 from 16 on.
    timed = {
        int(row["positions"]): float(row["seconds_mean"])
        for row in rows("forward_kernels")
        if row["model"] == "llama_3_1_8b" and "MeanOps" in row["kernel"]
    }
    positions = np.array(sorted(timed))
    seconds = np.array([timed[one] for one in positions])
    walked = walked_elements(4096, positions)
    slope = (seconds[4] - seconds[0]) / (walked[4] - walked[0])
    assert np.allclose(seconds, seconds[0] + slope * (walked - walked[0]), rtol=0.03)
    # What the fit makes of it, from norms timed alone and with the other kernels' slower rows in it.
    fit = next(fit for fit in load_calibration("h100_sxm5", "torch").fits if fit.operator == "elementwise")  # type: ignore[union-attr]
    assert slope < fit.constants["walk_time_s"] < 1.6 * slope


@pytest.mark.parametrize("model", ["llama_3_1_8b", "qwen3_8b", "llada_8b"])
def test_kernels_of_a_dense_forward_are_those_the_profiler_counted(model: str) -> None:
    measured = next(
        int(row["note"].partition("=")[2])
        for row in rows("forward")
        if row["model"] == model and row["implementation"] == "flash" and row["batch"] == "1" and row["note"]
    )
    uses = forward_operators(load_model(model), Workload(), fused=False)
    layers = load_model(model).num_layers
    pieces = sum(use.count * use.operator.launches for use in uses if isinstance(use.operator, Elementwise))
    pieces -= 3 * layers  # rotary is listed by its time
    gemms = sum(
        use.count for use in uses if use.module in ("projections", "dense_ffn", "head") and "activation" not in use.name
    )
    # Attention and its combination of splits; cuBLAS adds a reduction where it splits a GEMM, five a layer at most.
    assert pieces + gemms + 2 * layers <= measured <= pieces + gemms + 7 * layers


def test_kernels_of_whole_forwards_are_those_of_their_pieces() -> None:
    # Every kernel of one position is accounted for; of MoE layers the experts' own 31 are left, in both models the same.
    experts = {}
    for model, layers in (("llama_3_1_8b", 32), ("qwen3_8b", 36), ("qwen3_30b_a3b", 48), ("llada2_0_mini", 20)):
        listed = [row for row in rows("forward_kernels") if row["model"] == model and row["positions"] == "1"]
        launches = sum(float(row["launches"]) for row in listed if "splitKreduce" not in row["kernel"])
        uses = forward_operators(forward_model(model, layers), Workload(), fused=False)
        pieces = sum(use.count * use.operator.launches for use in uses if isinstance(use.operator, Elementwise))
        pieces -= 3 * layers  # rotary is listed by its time
        gemms = sum(use.count for use in uses if isinstance(use.operator, Gemm))
        left = launches - pieces - gemms - 2 * layers  # attention and its combination of splits
        moe_layers = sum(use.count for use in uses if isinstance(use.operator, FusedMoE))
        if moe_layers:
            experts[model] = left / moe_layers
        else:
            assert left == 0, model
    assert experts["qwen3_30b_a3b"] == 31
    assert experts["llada2_0_mini"] == pytest.approx(31, abs=0.2)


# --- the fit ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refitted() -> object:
    return fit_calibration("h100", "torch", records=DATA)


def test_a_refit_reproduces_the_shipped_constants(refitted: object) -> None:
    shipped = load_calibration("h100_sxm5", "torch")
    assert shipped is not None
    for fit in refitted.fits:  # type: ignore[attr-defined]
        other = shipped.fit_for(fit.operator, fit.dtypes[0])
        assert other is not None
        assert fit.constants == pytest.approx(other.constants, rel=0.02)
        assert fit.held_out == other.held_out or fit.held_out.mape == pytest.approx(other.held_out.mape, rel=0.05)


def test_constants_hold_on_shapes_they_never_saw() -> None:
    shipped = load_calibration("h100_sxm5", "torch")
    assert shipped is not None
    stated = {(fit.operator, fit.dtypes[0]): fit.held_out for fit in shipped.fits}
    for key, worst in {
        ("gemm", "bfloat16"): 0.04, ("gemm", "fp8"): 0.04, ("attention", "bfloat16"): 0.06, ("moe", "bfloat16"): 0.09,
        ("elementwise", "bfloat16"): 0.20,
    }.items():  # fmt: skip
        held = stated[key]
        assert held is not None
        assert held.mape < worst, key


def test_bidirectional_attention_was_not_fitted_and_is_predicted() -> None:
    errors = []
    for curve in curves_of(read_recorded(DATA / "attention.csv", "sdpa_flash")):
        if "bidirectional" in curve.kernels[0] and len(curve) >= 5:
            predicted = operator_latency("h100", curve.operator_record(), curve.tokens, "torch")
            errors.append(float(np.abs(predicted / curve.seconds - 1).mean()))
    assert len(errors) > 10
    assert np.median(errors) < 0.07


def test_flash_attention_steps_where_the_rule_says() -> None:
    """32 heads on 8, one sequence of 8192: tiles of 64 positions that share the cache's splits; eight sequences: of 128."""
    curves = {
        (c.shape.batch_size, c.shape.context_length): dict(zip(c.tokens.tolist(), c.seconds.tolist(), strict=True))  # type: ignore[union-attr]
        for c in curves_of(read_recorded(DATA / "attention.csv", "sdpa_flash"))
        if "causal" in c.kernels[0] and (c.shape.num_query_heads, c.shape.num_kv_heads) == (32, 8)  # type: ignore[union-attr]
    }
    from nfp_model.operators import Attention

    one, eight = curves[1, 8192], curves[8, 8192]
    assert one[64] < 1.1 * one[2] < one[128] / 1.4
    assert eight[128] < 1.1 * eight[2] < eight[256] / 1.6
    for batch, measured in ((1, one), (8, eight)):
        predicted = operator_latency("h100", Attention(32, 8, 128, 8192, batch), [2, 64, 128, 256], "torch")
        assert predicted == pytest.approx([measured[n] for n in (2, 64, 128, 256)], rel=0.15)


def test_grouped_experts_cost_the_same_up_to_a_cluster_of_rows() -> None:
    """torch's grouped GEMM schedules two 64-row tiles together: 32 tokens a Mixtral expert and 8 cost alike."""
    curve = next(
        c for c in curves_of(read_recorded(DATA / "moe.csv", "grouped_mm")) if c.shape.num_experts == 8 and len(c) > 8
    )  # type: ignore[union-attr]
    seconds = dict(zip(curve.tokens.tolist(), curve.seconds.tolist(), strict=True))
    assert seconds[128] < 1.1 * seconds[16]


# --- whole forwards -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forwards() -> list[object]:
    return forward_settings(DATA / "forward.csv")  # type: ignore[return-value]


def test_whole_forwards_are_predicted_from_operators_alone(forwards: list[object]) -> None:
    found = agreement(forwards)  # type: ignore[arg-type]
    assert found.settings == 30
    assert found.mape < 0.06
    assert found.most_mape < 0.10
    assert found.close > 0.7
    assert found.median_error == 0
    # Where the boundary is missed the band said so: 80 % of measured boundaries at least.
    assert found.covered is not None
    assert found.covered >= 0.8
    assert found.covered_latency is not None
    assert 0.75 <= found.covered_latency <= 0.9


def test_idle_compute_misses_the_same_forwards_by_far(forwards: list[object]) -> None:
    found = agreement(forwards)  # type: ignore[arg-type]
    assert found.idle_median > 5
    for one in forwards:
        for _, _, measured, _, idle in one.boundaries():  # type: ignore[attr-defined]
            assert idle >= 0.9 * measured


def test_modules_are_predicted(forwards: list[object]) -> None:
    modules = module_settings(DATA)
    assert {one.kind for one in modules} == {"dense_ffn", "moe_ffn", "attention"}
    assert agreement([one for one in modules if one.kind == "attention"]).close > 0.85
    assert agreement([one for one in modules if one.kind == "dense_ffn"]).mape < 0.04


def test_experts_are_predicted() -> None:
    experts = [one for one in module_settings(DATA) if one.kind == "moe_ffn"]
    assert agreement(experts).mape < 0.04


def test_a_batch_loses_the_flash_decode_kernel_at_the_second_position(forwards: list[object]) -> None:
    """Measured and predicted: FlashAttention-2 packs heads for one position only, so eight sequences of 8192 double."""
    one = next(f for f in forwards if f.name == "Llama-3.1-8B" and f.words == "verify, batch 8, context 8192")  # type: ignore[attr-defined]
    for seconds in (one.measured, one.predicted):  # type: ignore[attr-defined]
        assert near_free_boundary(LatencyCurve.measured(one.positions, seconds), 0.5, 1).nfp == 1  # type: ignore[attr-defined]
        assert seconds[1] > 1.7 * seconds[0]


def test_a_model_cut_to_fewer_layers_is_predicted_as_cut() -> None:
    assert forward_model("mixtral_8x7b", 20).num_layers == 20
    assert forward_model("llada2_0_mini", 2).layers[1].count == 1


def test_a_folder_reads_as_its_files_without_ceilings_and_lists() -> None:
    kinds = {point.operator for point in read_timings(DATA)}
    assert kinds == set(MEASURED)


def test_a_folder_without_timings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no file of timings"):
        read_timings(tmp_path)


def test_attention_is_calibrated_over_the_positions_that_were_timed() -> None:
    most = max(int(row["positions"]) for row in rows("attention"))
    fit = load_calibration("h100_sxm5", "torch").fit_for("attention", "bfloat16")  # type: ignore[union-attr]
    assert fit is not None
    assert fit.tokens == (1, most)


def test_cublas_splits_thin_products_until_they_fill_the_gpu() -> None:
    lines = (DATA / "gemm_kernels.csv").read_text(encoding="utf-8").splitlines()
    splits: dict[tuple[int, int], set[int]] = {}
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        tile = re.search(r"nvjet_sm90_tst_(\d+)x(\d+)_", row["kernel"])
        if tile and row["reduction"]:
            outputs, tokens = int(row["out_features"]), int(row["tokens"])
            tiles = math.ceil(outputs / int(tile[1])) * math.ceil(tokens / int(tile[2]))
            splits.setdefault((outputs, int(row["in_features"])), set()).add(int(row["ctas"]) // tiles)
            assert int(row["ctas"]) <= 132
    assert max(splits[256, 65536]) == 33  # four tiles of 64 outputs, 132 SMs
    assert max(splits[512, 65536]) == 16
    assert max(max(some) for some in splits.values()) == 33
