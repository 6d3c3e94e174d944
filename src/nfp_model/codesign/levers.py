"""What a designer can turn: each lever's present value and the neighbouring settings it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nfp_model.codesign.tiles import scaled_tiles
from nfp_model.curve import BoundForward
from nfp_model.errors import NfpModelError
from nfp_model.prediction import Prediction, predict_nfp
from nfp_model.quantities import element_type
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec, MoEFFN, SoftmaxAttention
from nfp_model.specs.variants import with_fields

STEP = 0.1
"""Relative step of levers that move continuously [-]: wide enough to meet the next tile or wave."""

WEIGHT_LADDER = ("bfloat16", "fp8", "int8", "int4")
"""Weight formats compared with, most bits first."""

WEIGHT_BYTES = frozenset({"weight_bytes", "up_bytes", "down_bytes"})


@dataclass(frozen=True)
class Setting:
    """One design: what :func:`~nfp_model.predict_nfp` takes, and a factor on every tile.

    Attributes
    ----------
    hardware, model : HardwareSpec, ModelSpec
        Specs.
    arguments : mapping
        Other arguments of :func:`~nfp_model.predict_nfp`.
    tile_factor : float
        Factor on every token-side tile [-].
    """

    hardware: HardwareSpec
    model: ModelSpec
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tile_factor: float = 1.0

    def predict(self) -> Prediction:
        """The prediction with the kernels as they are."""
        return predict_nfp(self.hardware, self.model, **self.arguments)

    def tiled(self, forward: BoundForward) -> BoundForward:
        """A forward with this setting's tiles."""
        return forward if self.tile_factor == 1.0 else scaled_tiles(forward, self.tile_factor)

    def hardware_with(self, **changes: Any) -> Setting:
        """The same with hardware fields changed."""
        return replace(self, hardware=with_fields(self.hardware, changes))

    def model_with(self, changes: Mapping[str, Any]) -> Setting:
        """The same with model fields changed."""
        return replace(self, model=with_fields(self.model, changes))


@dataclass(frozen=True)
class Lever:
    """One lever of a design.

    Attributes
    ----------
    name, unit : str
        For example ``bandwidth`` in ``B/s``.
    value : float
        Present value.
    neighbours : tuple of (float, Setting)
        Values on either side, and the designs that have them.
    moves : frozenset of str or None
        Symbols the lever moves while counts are held; None for every smooth one.
    note : str
        What is held or compared.
    """

    name: str
    unit: str
    value: float
    neighbours: tuple[tuple[float, Setting], ...]
    moves: frozenset[str] | None = None
    note: str = ""


def levers_of(prediction: Prediction, setting: Setting) -> list[Lever]:
    """Every lever this design has, neighbours that cannot run left out."""
    builders = (_bandwidth, _peak, _sm_count, _tile_rows, _top_k, _experts, _groups, _head_size, _weight_bits)
    built = [build(prediction, setting) for build in builders]
    return [lever for lever in built if lever is not None and lever.neighbours]


def _tried(values: list[float], change: Callable[[Any], Setting]) -> tuple[tuple[float, Setting], ...]:
    """Settings that validate; whether they run shows when they are predicted."""
    settings = []
    for value in values:
        try:
            settings.append((float(value), change(value)))
        except NfpModelError:
            continue
    return tuple(settings)


def _bandwidth(prediction: Prediction, setting: Setting) -> Lever:
    value = setting.hardware.memory_bandwidth_bytes_per_s
    around = [value * (1 - STEP), value * (1 + STEP)]
    neighbours = _tried(around, lambda v: setting.hardware_with(memory_bandwidth_bytes_per_s=v))
    return Lever("bandwidth", "B/s", value, neighbours)


def _peak(prediction: Prediction, setting: Setting) -> Lever:
    value = setting.hardware.peak_flop_per_s["bfloat16"]
    around = [value * (1 - STEP), value * (1 + STEP)]
    neighbours = _tried(around, lambda v: setting.hardware_with(peak_flop_per_s=v / value))
    return Lever("peak", "FLOP/s", value, neighbours, note="bf16 shown; every peak moves")


def _sm_count(prediction: Prediction, setting: Setting) -> Lever:
    value = setting.hardware.sm_count
    around = [
        float(count) for count in (round(value * (1 - STEP)), round(value * (1 + STEP))) if count not in (0, value)
    ]
    neighbours = _tried(around, lambda v: setting.hardware_with(sm_count=int(v), peak_flop_per_s=v / value))
    return Lever("sm_count", "-", value, neighbours, note="rate per SM held, so the peaks follow")


def _tile_rows(prediction: Prediction, setting: Setting) -> Lever:
    neighbours = _tried([0.5, 2.0], lambda v: replace(setting, tile_factor=v))
    return Lever("tile_rows", "x", 1.0, neighbours, frozenset({"tile_rows", "padded_flop"}), "every token-side tile")


def _experts_of(model: ModelSpec) -> dict[str, MoEFFN]:
    return {name: ffn for name, ffn in model.ffn.items() if isinstance(ffn, MoEFFN)}


def _top_k(prediction: Prediction, setting: Setting) -> Lever | None:
    found = _experts_of(setting.model)
    if not found:
        return None
    value = next(iter(found.values())).top_k
    neighbours = _tried(
        [value - 1, value + 1], lambda v: setting.model_with({f"ffn.{name}.top_k": int(v) for name in found})
    )
    return Lever("top_k", "-", value, neighbours, note="expert width held")


def _experts(prediction: Prediction, setting: Setting) -> Lever | None:
    found = _experts_of(setting.model)
    if not found:
        return None
    value = next(iter(found.values())).num_experts
    neighbours = _tried(
        [value // 2, value * 2], lambda v: setting.model_with({f"ffn.{name}.num_experts": int(v) for name in found})
    )
    return Lever("experts", "-", value, neighbours, note="expert width and top-k held")


def _softmax(model: ModelSpec) -> dict[str, SoftmaxAttention]:
    return {name: part for name, part in model.attention.items() if isinstance(part, SoftmaxAttention)}


def _groups(prediction: Prediction, setting: Setting) -> Lever | None:
    found = _softmax(setting.model)
    if not found:
        return None
    value = next(iter(found.values())).group_size

    def change(group: float) -> Setting:
        heads = {f"attention.{n}.num_kv_heads": int(part.num_kv_heads * value / group) for n, part in found.items()}
        return setting.model_with(heads)

    around = [group for group in (value / 2, value * 2.0) if group >= 1]
    return Lever("gqa_group", "-", value, _tried(around, change), note="query heads held, KV heads move")


def _head_size(prediction: Prediction, setting: Setting) -> Lever | None:
    found = _softmax(setting.model)
    if not found:
        return None
    value = next(iter(found.values())).head_dim

    def change(size: float) -> Setting:
        factor = size / value
        changes = {f"attention.{n}.head_dim": int(part.head_dim * factor) for n, part in found.items()}
        changes |= {
            f"attention.{n}.value_head_dim": int(part.value_head_dim * factor)
            for n, part in found.items()
            if part.value_head_dim is not None
        }
        return setting.model_with(changes)

    return Lever("head_size", "elements", value, _tried([value / 2, value * 2.0], change), note="heads held")


def _weight_bits(prediction: Prediction, setting: Setting) -> Lever | None:
    """The formats next below and above that this chip can run."""
    group = "experts" if setting.model.is_moe else "dense_ffn"
    present = prediction.workload.weight_dtype or setting.model.dtype_of(group)
    value = 8 * element_type(present).bytes
    nearest: dict[bool, tuple[float, Setting]] = {}
    names: dict[bool, str] = {}
    for dtype in WEIGHT_LADDER:
        bits, fewer = 8 * element_type(dtype).bytes, 8 * element_type(dtype).bytes < value
        if bits == value or not _runs(setting.hardware, dtype):
            continue
        if fewer not in nearest or not fewer:  # the ladder falls: the first below and the last above are nearest
            nearest[fewer] = (bits, replace(setting, arguments={**setting.arguments, "weight_dtype": dtype}))
            names[fewer] = dtype
    around = tuple(nearest[fewer] for fewer in (True, False) if fewer in nearest)
    note = f"truth: {present} against {', '.join(names.values())}, with its own kernels and matrix rate"
    return Lever("weight_bits", "bit", value, around, WEIGHT_BYTES, note)


def _runs(hardware: HardwareSpec, dtype: str) -> bool:
    try:
        return hardware.peak(dtype) > 0
    except NfpModelError:
        return False


__all__ = ["Lever", "Setting", "levers_of"]
