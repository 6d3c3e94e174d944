"""Fused-MoE curves recorded longer than the same experts took on fewer GPUs: a rank that has less to do cannot take longer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from nfp_model.validation.datasets import CurveSet, Exclusion
from nfp_model.validation.records import Curve
from nfp_model.validation.shapes import MoEShape

NAME = "slower_than_fewer_ranks"
"""Under which such curves are counted; pass it in ``keep`` to have them back."""

LONGER = 2.0
"""Median ratio from which a curve is left out [-]: far beyond the 8 % between two recordings of a kernel. Which curves go is read off
the measured times of both halves, never off a prediction. Nearly all are TensorRT-LLM's autotuned CUTLASS on H100 and H200, bf16 and fp8
(aiconfigurator-core 0.12.0): experts of several models, Llama-4-Scout's among them at 3 to 7 times the time of one GPU."""

FEWEST_POINTS = 3
"""Token counts two curves must share to be compared [-]."""

REASON = (
    f"a rank recorded at more than {LONGER:g} times the time of the same experts on fewer GPUs, where it has more to do"
)


def without_slower_ranks(found: CurveSet, keep: Iterable[str] = ()) -> CurveSet:
    """The set without the curves of more ranks that are slower than one of fewer, which are counted.

    Parameters
    ----------
    found : CurveSet
        Fused-MoE curves of one table.
    keep : iterable of str
        Exclusions not to apply.
    """
    if NAME in tuple(keep):
        return found
    layers: dict[object, list[Curve]] = defaultdict(list)
    for curve in found:
        layers[_layer(curve)].append(curve)
    slower = {
        id(curve) for group in layers.values() for curve in group if any(_is_slower(curve, other) for other in group)
    }
    if not slower:
        return found
    points = sum(len(curve) for curve in found if id(curve) in slower)
    kept = tuple(curve for curve in found if id(curve) not in slower)
    gone = {_identity(curve) for curve in found if id(curve) in slower}
    repeats = tuple(pair for pair in found.repeats if _identity(pair[0]) not in gone)
    exclusions = {**found.exclusions, NAME: Exclusion(REASON, points, len(slower))}
    return replace(found, curves=kept, exclusions=exclusions, repeats=repeats)


def _is_slower(curve: Curve, other: Curve) -> bool:
    """Whether ``other`` runs on fewer ranks that each do at least the work of ``curve``'s, and is faster by the median."""
    ours, theirs = _ranks(curve), _ranks(other)
    if ours == theirs or any(mine % yours for mine, yours in zip(ours, theirs, strict=True)):
        return False
    _, here, there = np.intersect1d(curve.tokens, other.tokens, assume_unique=True, return_indices=True)
    ratio = curve.seconds[here] / other.seconds[there]
    return ratio.size >= FEWEST_POINTS and float(np.median(ratio)) > LONGER


def _ranks(curve: Curve) -> tuple[int, int]:
    assert isinstance(curve.shape, MoEShape)
    return curve.shape.tensor_parallel, curve.shape.expert_parallel


def _layer(curve: Curve) -> object:
    assert isinstance(curve.shape, MoEShape)
    return (
        replace(curve.shape, tensor_parallel=1, expert_parallel=1),
        curve.weight_dtype,
        curve.activation_dtype,
        curve.kernels,
    )


def _identity(curve: Curve) -> object:
    return curve.shape, curve.weight_dtype, curve.activation_dtype, curve.kernels
