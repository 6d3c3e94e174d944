"""Thin fused-MoE tables and the curves lent to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nfp_model.errors import InvalidArgumentError
from nfp_model.validation.calibrating import _one_rule
from nfp_model.validation.fit_points import LENT, LENT_WEIGHT, collect, weights
from nfp_model.validation.fit_sharing import LENDER, refuse_thin, shapes, shared
from nfp_model.validation.fit_tables import curve_dtype, family, silicon_tables

pytestmark = pytest.mark.silicon


def table(gpu: str, backend: str, dtype: str):  # type: ignore[no-untyped-def]
    (found,) = silicon_tables(gpu, backend, "moe", dtype)
    return found


@pytest.mark.parametrize(("backend", "formats"), [("vllm", {"mxfp4"}), ("sglang", {"int4", "mxfp4"})])
def test_int4_borrows_other_timings_of_marlin_on_the_same_gpu(backend: str, formats: set[str]) -> None:
    thin = table("h100_sxm5", backend, "int4")
    full = shared(thin)
    assert shapes(thin.fit) == 2
    assert {curve_dtype(curve) for curve in full.lent} == formats
    for curve in full.lent:
        assert (curve.gpu, curve.backend, curve.half) == ("h100_sxm5", LENDER, "fit")
        assert family(curve.kernels[0]) == "marlin"
    assert replace(full, lent=()) == thin
    assert len(full.groups) == len(full.fit) + len(full.lent)
    points = collect((*full.fit, *full.lent), backend)
    weight = weights(points, full.groups)
    lent = np.array([group.startswith(LENT) for group in full.groups])[points.curve]
    assert weight[lent].sum() / weight[~lent].sum() == pytest.approx(LENT_WEIGHT * len(formats), rel=1e-9)
    with pytest.raises(InvalidArgumentError, match="2 shapes to fit and 6 to score, 3 and 1 are needed"):
        refuse_thin(thin)
    refuse_thin(full)


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("h100_sxm5", "marlin_fp4_local"),  # timed under a name of its own, blocks by the experts of a rank
        ("b200_sxm", "marlin_fp4"),  # blocks by the experts of all ranks
        ("l40s", "marlin"),  # waits for memory whatever the format
    ],
)
def test_lent_curves_keep_the_rule_recorded_for_them(gpu: str, expected: str) -> None:
    full = shared(table(gpu, "vllm", "int4"))
    rule = _one_rule(full)
    assert rule is not None
    assert full.lent
    assert {rule(curve).name for curve in full.lent} == {expected}
    assert {rule(curve).name for curve in full.fit} == {"marlin"}


@pytest.mark.parametrize(("gpu", "backend", "dtype"), [("h100_sxm5", "vllm", "bfloat16"), ("l40s", "vllm", "mxfp4")])
def test_a_table_with_shapes_enough_borrows_nothing(gpu: str, backend: str, dtype: str) -> None:
    found = table(gpu, backend, dtype)
    assert shared(found) is found
    refuse_thin(found)


def test_mxfp4_with_8_bit_activations_is_a_format_of_its_own() -> None:
    for dtype, activations in (("mxfp4", "bfloat16"), ("mxfp4_w4a8", "fp8")):
        found = table("b200_sxm", "vllm", dtype)
        assert {curve.activation_dtype for curve in (*found.fit, *found.test)} == {activations}
