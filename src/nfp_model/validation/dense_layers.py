"""Dense layers as sums of measured GEMMs: qkv, o, gate/up, down."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from nfp_model.errors import UnsupportedError
from nfp_model.uncertainty import Spread
from nfp_model.validation.records import Curve
from nfp_model.validation.references import ROOFLINE, TABLE
from nfp_model.validation.score_records import CurveCase, FloatArray
from nfp_model.validation.shapes import GemmShape


def dense_layers(shapes: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, int], ...]]:
    """Layers that four (n, k) of a table make up: qkv, o, gate/up, down; one KV width, the smallest, for each size.

    Hidden h, query width q between h/2 and 2h, FFN width i between h and 6h, KV heads of 128 that divide the queries.

    Examples
    --------
    >>> dense_layers([(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (512, 512)])
    [((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))]
    """
    there = set(shapes)
    into: dict[int, list[int]] = {}
    for n, k in sorted(there):
        into.setdefault(k, []).append(n)
    layers: dict[tuple[int, int, int], tuple[tuple[int, int], ...]] = {}
    for hidden in sorted(into):
        widths = [k for n, k in there if n == hidden]
        for query, inner in product(sorted(widths), sorted(widths)):
            if (
                not (hidden <= 2 * query <= 4 * hidden and hidden <= inner <= 6 * hidden)
                or (2 * inner, hidden) not in there
            ):
                continue
            for fused in into[hidden]:
                kv = fused - query
                if kv <= 0 or kv % 256 or query % 128 or query % (kv // 2):
                    continue
                four = ((fused, hidden), (hidden, query), (2 * inner, hidden), (hidden, inner))
                layers.setdefault((hidden, query, inner), four)
    return list(layers.values())


def layer_cases(curves: Sequence[Curve], cases: Sequence[CurveCase]) -> list[CurveCase]:
    """Dense layers as sums of four GEMMs of one table, at the tokens all four share.

    Parameters
    ----------
    curves : sequence of Curve
        GEMMs, one for every case.
    cases : sequence of CurveCase
        Their predictions.
    """
    by_shape = {
        (curve.shape.out_features, curve.shape.in_features): case
        for curve, case in zip(curves, cases, strict=True)
        if isinstance(curve.shape, GemmShape)
    }
    return [_summed([by_shape[shape] for shape in four], four) for four in dense_layers(list(by_shape))]


def _summed(parts: Sequence[CurveCase], shapes: Sequence[tuple[int, int]]) -> CurveCase:
    tokens = parts[0].tokens
    for part in parts[1:]:
        tokens = np.intersect1d(tokens, part.tokens, assume_unique=True)
    if tokens.size == 0:
        raise UnsupportedError("the GEMMs of a layer share no token count")
    places = [np.searchsorted(part.tokens, tokens) for part in parts]

    def total(columns: Sequence[FloatArray]) -> FloatArray:
        return np.asarray(np.sum([column[place] for column, place in zip(columns, places, strict=True)], axis=0))

    predicted = total([part.predicted for part in parts])
    shares = [part.predicted[place] / predicted for part, place in zip(parts, places, strict=True)]
    # One fit stands behind all four.
    spread = Spread.joined(
        ("gemm", shape, share, part.spread.where(place))
        for shape, share, part, place in zip(shapes, shares, parts, places, strict=True)
    )
    plain = total([np.maximum(part.memory, part.matrix) for part in parts])
    table = (
        {TABLE: total([part.others[TABLE] for part in parts])} if all(TABLE in part.others for part in parts) else {}
    )
    (fused, hidden), (_, query), (_, _), (_, inner) = shapes
    return CurveCase(
        name=f"layer h {hidden} q {query} kv {(fused - query) // 2} ffn {inner}",
        tokens=tokens,
        measured=total([part.measured for part in parts]),
        predicted=predicted,
        spread=spread,
        memory=total([part.memory for part in parts]),
        matrix=total([part.matrix for part in parts]),
        baselines=parts[0].baselines,
        stream={name: sum(part.stream[name] for part in parts) for name in parts[0].stream},
        others={ROOFLINE: plain, **table},
        most=parts[0].most,
    )
