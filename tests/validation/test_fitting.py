"""Fits: constants come back from curves made with them, bad data are refused with advice, shipped files are what a refit gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings, strategies as st

from nfp_model.cost.binding import kernel_for
from nfp_model.cost.latency import BoundOperator
from nfp_model.errors import InvalidArgumentError, SpecError, UnknownNameError
from nfp_model.specs.calibration import Calibration, Fit, load_calibration
from nfp_model.specs.kernel_library import all_libraries
from nfp_model.specs.registry import load_hardware, spec_files
from nfp_model.uncertainty import Z80, Spread, latency_band
from nfp_model.validation.calibrating import fit_calibration, score_curves
from nfp_model.validation.fit_bands import forgetting, point_spread, sized_bands
from nfp_model.validation.fit_files import calibration_to_toml, write_calibration
from nfp_model.validation.fit_points import BEYOND_WEIGHT, REPLAYS, collect, weights
from nfp_model.validation.fit_tables import recorded_tables, sampled, setting, silicon_tables
from nfp_model.validation.fit_unknowns import ONE_TILE, TILE_MENU, UNKNOWNS, Unknowns, significant
from nfp_model.validation.fitting import fit_constants
from nfp_model.validation.pooling import fit_uncalibrated
from nfp_model.validation.records import Curve, Measurement
from nfp_model.validation.shapes import AllReduceShape, AttentionShape, GemmShape, MoEShape
from nfp_model.validation.statistics import boundary_error, curve_mape, median_and_p90
from nfp_model.validation.user_data import write_records

ROWS = np.array([1, 4, 16, 32, 64, 65, 96, 128, 129, 192, 256, 384, 512, 768, 1024])
SHAPES = [
    (4096, 4096),
    (8192, 4096),
    (6144, 4096),
    (28672, 4096),
    (4096, 14336),
    (2560, 9728),
    (10240, 8192),
    (5120, 5120),
]
GEMM = {
    "fixed_time_s": 4.0e-6,
    "memory_efficiency": 0.78,
    "matrix_efficiency": 0.7,
    "overlap_exponent": 4.0,
    "chain_time_s": 2.4e-9,
    "split_time_s": 1.0e-6,
}


def fit_of(constants: dict[str, float], **fields: object) -> Fit:
    """A fit that claims nothing but its constants."""
    return Fit.from_mapping(
        {
            "operator": "gemm",
            "constants": constants,
            "log_scatter": 0.1,
            "data": "made",
            "date": "d",
            "command": "c",
            **fields,
        }
    )


def gemm_curves(
    constants: dict[str, float],
    rows: np.ndarray = ROWS,
    distort: Callable[[np.ndarray], np.ndarray] = lambda seconds: seconds,
) -> list[Curve]:
    """Curves an H100 with these constants would show."""
    hardware, curves = load_hardware("h100"), []
    for n, k in SHAPES:
        shape = GemmShape(n, k)
        operator = shape.operator("bfloat16", "bfloat16")
        bound = BoundOperator(operator, hardware, kernel_for(hardware, operator, "vllm"), fit_of(constants), "made")
        seconds = distort(np.array(bound.seconds(rows)))
        curves.append(Curve("gemm", shape, "h100_sxm5", "vllm", rows, seconds, weight_dtype="bfloat16"))
    return curves


@settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(
    fixed=st.floats(1.5e-6, 8e-6),
    memory=st.floats(0.6, 0.95),
    matrix=st.floats(0.45, 0.95),
    sharpness=st.floats(1.6, 6.0),
)
def test_constants_come_back_from_curves_made_with_them(
    fixed: float, memory: float, matrix: float, sharpness: float
) -> None:
    truth = {
        **GEMM,
        "fixed_time_s": fixed,
        "memory_efficiency": memory,
        "matrix_efficiency": matrix,
        "overlap_exponent": sharpness,
    }
    points = collect(gemm_curves(truth), "vllm")
    found = fit_constants(points)
    # The weak prior and three printed digits are all that stand between them.
    error = np.abs(points.predicted(found.constants) / points.seconds - 1)
    assert np.median(error) < 0.01
    assert np.max(error) < 0.06
    for name in ("fixed_time_s", "memory_efficiency", "matrix_efficiency"):
        assert found.constants[name] == pytest.approx(truth[name], rel=0.1), name  # chain and fixed time part little


def test_under_a_dispatch_the_rereads_are_fitted_in_place_of_the_split_time() -> None:
    truth = {**GEMM, "split_time_s": 1.5e-6, "reread_share": 0.4}
    hardware, curves = load_hardware("h200"), []
    for n, k in SHAPES:
        operator = GemmShape(n, k).operator("fp8_block", "fp8")
        kernel = kernel_for(hardware, operator, "sglang")
        seconds = BoundOperator(operator, hardware, kernel, fit_of(truth), "made").seconds(ROWS)
        curves.append(Curve("gemm", GemmShape(n, k), "h200_sxm", "sglang", ROWS, seconds, "fp8_block", "fp8"))
    points = collect(curves, "sglang")
    found = fit_constants(points)
    assert points.unknowns.held == ONE_TILE
    assert "reread_share" in found.fitted
    assert "split_time_s" not in found.fitted
    assert found.constants["reread_share"] == pytest.approx(0.4, rel=0.1)
    assert np.max(np.abs(points.predicted(found.constants) / points.seconds - 1)) < 0.06


def test_a_few_spoiled_timings_do_not_move_the_constants() -> None:
    def spoil(seconds: np.ndarray) -> np.ndarray:
        seconds = seconds.copy()
        seconds[[2, 9]] *= 3.0
        return seconds

    clean = fit_constants(collect(gemm_curves(GEMM), "vllm")).constants
    dirty = fit_constants(collect(gemm_curves(GEMM, distort=spoil), "vllm")).constants
    assert dirty["memory_efficiency"] == pytest.approx(clean["memory_efficiency"], rel=0.04)
    assert dirty["matrix_efficiency"] == pytest.approx(clean["matrix_efficiency"], rel=0.06)


def test_points_of_a_fit_are_the_bound_operators_own_latencies() -> None:
    points = collect(gemm_curves(GEMM), "vllm")
    assert points.predicted(GEMM) == pytest.approx(points.seconds, rel=1e-12)
    assert points.near_best(GEMM, 1.6).predicted(GEMM) == pytest.approx(points.seconds, rel=1e-12)
    half = points.where(points.tokens > 64)
    assert half.predicted(GEMM) == pytest.approx(half.seconds, rel=1e-12)


def test_a_cache_replayed_from_l2_is_no_prediction_but_is_fitted_as_what_it_is() -> None:
    """Beyond L2 a point is the prediction itself; inside, the replay saves stream time and the first access to memory."""
    constants = {
        "fixed_time_s": 14e-6, "memory_efficiency": 0.9, "overlap_exponent": 3.0, "sequence_time_s": 1e-8, "step_share": 0.4,
        "cta_time_s": 2e-6, "split_time_s": 1e-6, "matrix_efficiency": 0.6,
    }  # fmt: skip
    batches = np.array([1, 8, 64])
    curve = Curve(
        "attention", AttentionShape(32, 8, 128, 4096), "h100_sxm5", "vllm", batches, np.ones(3), kv_dtype="bfloat16",
        beyond_l2=np.array([False, False, True]),
    )  # fmt: skip
    fit = fit_of(constants, operator="attention")
    hardware, bound = load_hardware("h100"), []
    for batch in batches.tolist():
        operator = curve.operator_record(batch)
        bound.append(
            BoundOperator(operator, hardware, kernel_for(hardware, operator, "vllm"), fit, "made").seconds(1)[0]
        )
    fitted = collect([curve], "vllm").predicted(constants)
    assert fitted[2] == pytest.approx(bound[2], rel=1e-12)
    assert bound[0] - fitted[0] >= 0.99 * REPLAYS["hopper"].first_access_s
    assert np.all(fitted[:2] < bound[:2])


def test_steps_at_the_pace_of_the_threads_are_no_faster_from_l2() -> None:
    """Masked multi-head attention on Blackwell: a replay saves a grouped kernel half of its later steps, and these none."""
    steps = []
    for heads in (64, 8):
        curve = Curve(
            "attention", AttentionShape(heads, 1, 256, 4095), "b200_sxm", "trtllm", np.array([4, 8]), np.ones(2),
            kv_dtype="bfloat16", beyond_l2=np.array([False, True]),
        )  # fmt: skip
        inside, outside = collect([curve], "trtllm").inputs["key_steps"]
        steps.append(inside / outside)
    assert steps[0] == 1
    assert steps[1] < 1


def test_band_of_a_fit_is_the_band_a_prediction_shows() -> None:
    fit = fit_of(
        GEMM,
        fitted=["fixed_time_s", "memory_efficiency"],
        covariance=[[4e-4, 1e-4], [1e-4, 9e-4]],
        band_scatter=0.03,
    )
    curve = gemm_curves(GEMM)[0]
    hardware, operator = load_hardware("h100"), curve.operator_record()
    bound = BoundOperator(operator, hardware, kernel_for(hardware, operator, "vllm"), fit, "made")
    low, high = latency_band(bound, curve.tokens)
    deviation = point_spread(
        collect([curve], "vllm").near_best(GEMM, 1.0), fit
    ).deviation  # the tile is held, as in a score
    # Where two tiles are all but equal, the prediction may hold the one, the fit's points the other.
    assert np.log(high / low) / (2 * Z80) == pytest.approx(deviation, rel=5e-3)


def test_noise_widens_the_band_by_its_own_size() -> None:
    noise = np.random.default_rng(7)

    def shake(seconds: np.ndarray) -> np.ndarray:
        return np.asarray(seconds * np.exp(noise.normal(0.0, 0.05, seconds.size)))

    found = fit_constants(collect(gemm_curves(GEMM, distort=shake), "vllm"))
    assert 0.035 < found.bands.band_scatter < 0.07
    assert 0.03 < found.log_scatter < 0.06


def test_errors_that_a_whole_curve_shares_leave_its_boundary_sure() -> None:
    """Residuals of +-10 % that last for a whole curve cancel in T / T(N0); those that change at every point do not."""
    points = collect(gemm_curves(GEMM), "vllm")
    spread = Spread.of(np.full(len(points), 0.1 / Z80))
    signs = np.random.default_rng(3).choice([-0.1, 0.1], len(points.curves))
    lasting = forgetting(points, signs[points.curve], spread)
    changing = forgetting(points, np.random.default_rng(3).choice([-0.1, 0.1], len(points)), spread)
    assert lasting == 100.0
    assert changing < 3.0


def test_bands_of_caches_in_l2_and_in_memory_are_apart() -> None:
    batches = np.arange(1, 41)
    shape = AttentionShape(32, 8, 128, 4096)
    curves = [
        Curve("attention", shape, "h100_sxm5", "vllm", batches, np.ones(40), kv_dtype="bfloat16", beyond_l2=outside)
        for outside in (np.zeros(40, dtype=bool), np.ones(40, dtype=bool))
    ]
    points = collect(curves, "vllm")
    missed = np.where(points.curve == 0, 0.2, 0.1) * np.linspace(0.0, 1.0, len(points))
    bands = sized_bands(points, missed, None, np.zeros((1, len(points))))
    inside, outside = (missed[points.curve == index] / Z80 for index in (0, 1))
    assert bands.band_scatter_in_l2 == pytest.approx(np.quantile(inside, 0.8), rel=0.05)
    assert bands.band_scatter == pytest.approx(np.quantile(outside, 0.8), rel=0.05)
    assert bands.band_scatter_parallel is None


def test_every_curve_counts_alike_and_parallel_layers_less() -> None:
    long, short = gemm_curves(GEMM)[0], gemm_curves(GEMM, rows=ROWS[:3])[1]
    points = collect([long, short], "vllm")
    weight = weights(points)
    assert weight[points.curve == 0].sum() == pytest.approx(weight[points.curve == 1].sum())
    apart = weights(points, ["balanced", "parallel"])
    assert apart[points.curve == 1].sum() == pytest.approx(0.2 * apart[points.curve == 0].sum())


def test_caches_in_memory_weigh_more_in_a_fit_and_alike_in_its_band() -> None:
    curve = Curve(
        "attention", AttentionShape(32, 8, 128, 4096), "h100_sxm5", "vllm", np.array([1, 8]), np.ones(2), kv_dtype="bfloat16",
        beyond_l2=np.array([False, True]),
    )  # fmt: skip
    points = collect([curve], "vllm")
    inside, beyond = weights(points)
    assert beyond == pytest.approx(BEYOND_WEIGHT * inside)
    assert weights(points, None, 1.0).tolist() == [1.0, 1.0]


def test_at_most_six_numbers_are_fitted_seven_for_attention() -> None:
    counts = {operator: len(Unknowns(operator)) for operator in UNKNOWNS if operator not in ("gemm", "moe")}
    assert counts == {
        "attention": 7,
        "latent_attention": 7,
        "csa_block": 7,
        "hca_block": 6,
        "elementwise": 4,
        "collective": 4,
    }
    assert {len(Unknowns("gemm", one)) for one in (ONE_TILE, TILE_MENU)} == {6}
    held = [kernel.held for library in all_libraries() for kernel in library.moe]
    assert len(held) > 15
    assert {len(Unknowns("moe", one)) for one in held} == {6}


def test_too_few_points_are_refused_with_tokens_to_measure() -> None:
    points = collect(gemm_curves(GEMM, rows=ROWS[:2])[:3], "vllm")
    with pytest.raises(
        InvalidArgumentError, match=r"6 points are too few .* at least 18 .* measure next .* rows of gemm 4096 4096"
    ):
        fit_constants(points)


@pytest.mark.parametrize(
    ("rows", "side", "wanted"), [([1, 2, 4, 8, 12, 16], "below", 128), ([2048, 3072, 4096], "above", 16)]
)
def test_points_on_one_side_of_the_knee_are_refused(rows: list[int], side: str, wanted: int) -> None:
    points = collect(gemm_curves(GEMM, rows=np.array(rows)), "vllm")
    with pytest.raises(InvalidArgumentError, match=f"lie {side} the knee") as caught:
        fit_constants(points)
    advised = [int(word.strip(",")) for word in str(caught.value).split("measure next ")[1].split(" rows")[0].split()]
    assert min(abs(np.log2(count / wanted)) for count in advised) <= 2


def test_curves_of_two_kinds_are_refused() -> None:
    moved = Curve("all_reduce", AllReduceShape(2), "h100_sxm5", "vllm", np.array([1024]), np.array([1e-5]))
    with pytest.raises(InvalidArgumentError, match=r"curves of one kind among gemm, moe, .* got all_reduce, gemm"):
        collect([*gemm_curves(GEMM)[:1], moved], "vllm")


def records_of(curves: list[Curve], path: Path) -> Path:
    rows: list[Measurement] = [point for curve in curves for point in curve.measurements()]
    write_records(path, rows)
    return path


def test_a_gpu_of_ones_own_is_fitted_from_forty_timings(tmp_path: Path) -> None:
    path = records_of(gemm_curves(GEMM, rows=ROWS[::2])[:5], tmp_path / "mine.csv")
    calibration = fit_calibration("h100", "vllm", records=path, out=tmp_path, date="2026-01-02")
    assert calibration.name == "h100_sxm5.vllm"
    (fit,) = calibration.fits
    assert fit.points == 40
    # Five shapes are too few for two halves: each was left out in turn.
    assert fit.held_out is not None
    assert fit.held_out.curves == 5
    assert fit.held_out.mape < 0.01
    assert fit.constants["memory_efficiency"] == pytest.approx(GEMM["memory_efficiency"], rel=0.05)
    assert fit.command == "nfp fit mine.csv"
    assert Calibration.from_toml(tmp_path / "h100_sxm5.vllm.toml") == calibration


def test_timings_of_another_gpu_are_refused(tmp_path: Path) -> None:
    path = records_of(gemm_curves(GEMM)[:1], tmp_path / "mine.csv")
    with pytest.raises(
        InvalidArgumentError, match="no timings of sglang on a100_sxm4_80gb to fit; it has h100_sxm5 vllm gemm"
    ):
        fit_calibration("a100", "sglang", records=path)


def test_unknown_operator_and_generation_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown operator to fit 'gem'; did you mean 'gemm'"):
        fit_calibration("h100", "vllm", "gem")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="did you mean 'hopper'"):
        fit_uncalibrated("hoper")


def test_a_calibration_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    calibration = Calibration(name="h100_sxm5.vllm", hardware="h100_sxm5", backend="vllm", fits=(fit_of(GEMM),))
    with pytest.raises(InvalidArgumentError, match=r"belongs in h100_sxm5.vllm.toml, got other.toml"):
        write_calibration(calibration, tmp_path / "other.toml")
    target = tmp_path / "h100_sxm5.vllm.toml"
    target.mkdir()
    with pytest.raises(SpecError, match="cannot be written"):
        write_calibration(calibration, target)
    assert [path.name for path in tmp_path.iterdir()] == ["h100_sxm5.vllm.toml"]


def test_printed_digits() -> None:
    assert [significant(value) for value in (2.99999e-6, 0.87654, 11.666)] == [3e-6, 0.877, 11.7]


def test_statistics_on_curves_worked_by_hand() -> None:
    tokens = np.array([1, 16, 32, 64, 128])
    measured = np.array([9.0, 10.0, 11.0, 12.5, 11.9])
    predicted = np.array([9.0, 10.0, 11.0, 12.0, 13.0])
    # Last crossing: the measured curve comes back under 12 at 128, the predicted one leaves it after 64.
    assert boundary_error(tokens, predicted, measured, 0.2, 16) == -1.0
    assert boundary_error(tokens, predicted, measured, 0.2, 4) == -1.0
    assert boundary_error(tokens, predicted, measured, 0.2, 256) is None
    assert curve_mape(predicted, measured) == pytest.approx((0.5 / 12.5 + 1.1 / 11.9) / 5)
    assert median_and_p90([]) is None


def test_settings_of_moe_curves() -> None:
    shape = MoEShape(4096, 14336, 8, 2, routing="balanced")
    curve = Curve("moe", shape, "h100_sxm5", "vllm", np.array([1]), np.array([1e-4]), weight_dtype="bfloat16")
    assert setting(curve) == "balanced"
    assert setting(replace(curve, shape=replace(shape, routing="power_law:1.2"))) == "skewed"
    assert setting(replace(curve, shape=replace(shape, expert_parallel=2))) == "parallel"
    every = [replace(curve, shape=replace(shape, hidden_size=1024 * size)) for size in range(1, 9)]
    assert sampled(every, 3) == sampled(every[::-1], 3)


# Shipped files


SHIPPED = sorted(path.stem for path in spec_files("calibrations"))
MEASURED = [name for name in SHIPPED if not name.startswith("uncalibrated")]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_calibrations_load_and_print_back(name: str, tmp_path: Path) -> None:
    path = next(path for path in spec_files("calibrations") if path.stem == name)
    calibration = Calibration.from_toml(path)
    assert calibration.name == name
    copy = tmp_path / path.name
    copy.write_text(calibration_to_toml(calibration), encoding="utf-8")
    assert Calibration.from_toml(copy) == calibration


@pytest.mark.silicon
@pytest.mark.parametrize(("gpu", "backend", "operator", "dtype"), [("h200_sxm", "vllm", "moe", "fp8_block")])
def test_a_refit_reproduces_a_shipped_calibration_to_the_printed_digits(
    gpu: str, backend: str, operator: str, dtype: str
) -> None:
    shipped = load_calibration(gpu, backend)
    assert shipped is not None
    stated = shipped.fit_for(operator, dtype)  # type: ignore[arg-type]
    assert stated is not None
    (again,) = fit_calibration(gpu, backend, operator, dtype, date=stated.date).fits  # type: ignore[arg-type]
    assert again.model_copy(update={"command": stated.command}) == stated


OWN = Path(__file__).parents[2] / "validation" / "data" / "h100"
"""Our own timings, which the torch calibration is fitted on."""


@pytest.mark.silicon
@pytest.mark.parametrize("name", MEASURED)
def test_each_shipped_calibration_scores_within_its_stated_error(name: str) -> None:
    """On eight test-half curves of its first scored operator: far enough from the stated median only if something broke."""
    gpu, backend = name.rsplit(".", 1)
    shipped = load_calibration(gpu, backend)
    assert shipped is not None
    fit = next(fit for fit in shipped.fits if fit.held_out is not None and fit.held_out.curves > 1)
    (table,) = (
        silicon_tables(gpu, backend, fit.operator, fit.dtypes[0])
        if backend in ("vllm", "sglang", "trtllm")
        else recorded_tables(OWN, gpu, backend, fit.operator, fit.dtypes[0])
    )
    assert table.kernels == fit.kernels
    some = sampled([curve for curve in (table.test or table.fit) if setting(curve) != "parallel"], 8)
    scores = score_curves(some, backend, fit)
    assert fit.held_out is not None
    main = scores.get("balanced") or scores.get("beyond_l2") or scores["all"]
    assert main.mape <= 1.6 * fit.held_out.mape + 0.01
