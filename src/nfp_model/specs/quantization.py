"""Quantised checkpoints: which weights of a model are stored in which format.

Seven spellings are read: ``fp8`` (per tensor or 128x128 blocks), ``mxfp4``, ``compressed-tensors``, ``modelopt`` (one
algorithm or one per layer), ``quant_algo`` without a method, a separate ``hf_quant_config.json``, ``awq`` / ``gptq``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from nfp_model.errors import NfpModelError, SpecError, UnsupportedError

ALGORITHMS = {
    "FP8": "fp8", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "FP8_PB_WO": "fp8_block", "FP8_BLOCK": "fp8_block",
    "NVFP4": "nvfp4", "NVFP4_AWQ": "nvfp4", "W4A16_NVFP4": "nvfp4_w4a16", "MXFP4": "mxfp4", "W4A16_MXFP4": "mxfp4",
    "W4A16_AWQ": "int4", "W4A16": "int4", "INT4_AWQ": "int4", "W4A8_AWQ": "int4", "W8A16": "int8_w8a16",
    "W8A8_SQ_PER_CHANNEL": "int8", "INT8": "int8",
}  # fmt: skip
"""ModelOpt's ``quant_algo`` -> storage format."""

KEPT_UNLESS_NAMED = frozenset({"router", "head", "embedding"})
"""Weight groups every quantiser leaves alone unless a file names them one by one."""

WEIGHT_ONLY = {"int8": "int8_w8a16", "nvfp4": "nvfp4_w4a16"}
"""Formats whose activations a file leaves in 16 bits -> the format with 16-bit math; fp8 has none, engines quantise for it."""

_IN_FEED_FORWARD = frozenset({"dense_ffn", "experts", "shared_experts"})
_PREFIX = re.compile(r"^(?:(?:model|language_model|backbone)\.)+")
INT4_GROUPS: dict[int | None, str] = {128: "int4", 64: "int4_g64", 32: "int4_g32"}
"""Weights per scale -> storage format of 4-bit integers."""


@dataclass(frozen=True)
class Quantization:
    """Storage formats by module name.

    Attributes
    ----------
    default : str or None
        Format of every linear layer not excluded; None when only the named ones are quantised.
    named : mapping
        Module name or ``re:`` pattern -> format.
    excluded : tuple of str
        Names, globs and ``re:`` patterns of modules left in the base type.
    only : frozenset of str
        Weight groups the method touches at all; empty for all.
    kv_dtype : str or None
        KV-cache format.
    notes : tuple of str
        What the formats leave out.

    Examples
    --------
    >>> scheme = read_quantization({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.self_attn"]}, "x")
    >>> scheme.dtype_of("layers.0.self_attn.q_proj", "attention", "bfloat16")
    'bfloat16'
    >>> scheme.dtype_of("layers.1.self_attn.q_proj", "attention", "bfloat16")
    'fp8'
    """

    default: str | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    only: frozenset[str] = frozenset()
    kv_dtype: str | None = None
    notes: tuple[str, ...] = ()

    def dtype_of(self, module: str, group: str, base: str) -> str:
        """Storage format of one module.

        Parameters
        ----------
        module : str
            Its name without the model's prefix: ``layers.3.mlp.experts.0.up_proj``, ``lm_head``.
        group : str
            The weight group it belongs to.
        base : str
            Format of what is not quantised.
        """
        if self._is_excluded(module):
            return base
        named = self._named_dtype(module, group)
        if named is not None:
            return named
        if self.default is None or group in KEPT_UNLESS_NAMED or (self.only and group not in self.only):
            return base
        return self.default

    def _is_excluded(self, module: str) -> bool:
        parts = module.split(".")
        suffixes = {".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}
        if not suffixes.isdisjoint(self._excluded_names):
            return True
        return any(pattern(module) for pattern in self._excluded_patterns)

    @cached_property
    def _excluded_names(self) -> frozenset[str]:
        return frozenset(_PREFIX.sub("", name) for name in self.excluded if not _is_pattern(name))

    @cached_property
    def _excluded_patterns(self) -> tuple[Any, ...]:
        return tuple(_matcher(name) for name in self.excluded if _is_pattern(name))

    @cached_property
    def _exact(self) -> dict[str, str]:
        return {_PREFIX.sub("", name): dtype for name, dtype in self.named.items() if not _is_pattern(name)}

    @cached_property
    def _by_parent(self) -> dict[str, str]:
        return {name.rpartition(".")[0]: dtype for name, dtype in self._exact.items()}

    def _named_dtype(self, module: str, group: str) -> str | None:
        parts = module.split(".")
        for end in range(len(parts), 0, -1):
            found = self._exact.get(".".join(parts[:end]))
            if found is not None:
                return found
        for name, dtype in self.named.items():
            if _is_pattern(name) and _matcher(name)(module):
                return dtype
        # Expert matrices are called up_proj here and w1, w3 there: their container decides.
        return self._by_parent.get(module.rpartition(".")[0]) if group in _IN_FEED_FORWARD else None


def _is_pattern(name: str) -> bool:
    return name.startswith("re:") or "*" in name


def _matcher(pattern: str) -> Any:
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise SpecError(f"quantisation pattern '{pattern}' is no regular expression ({error})") from None
        return lambda module: bool(expression.match(module) or expression.match(f"model.{module}"))
    glob = _PREFIX.sub("", pattern)
    return lambda module: fnmatchcase(module, glob) or fnmatchcase(module, f"{glob}.*")


def read_quantization(config: Mapping[str, Any], origin: str) -> Quantization:
    """Read a ``quantization_config``, or the ``quantization`` table of an ``hf_quant_config.json``.

    Parameters
    ----------
    config : mapping
        As in the file.
    origin : str
        What to call the file in an error.

    Raises
    ------
    UnsupportedError
        For a method, algorithm or bit width without a storage format; the message names it and those that are known.
    SpecError
        For a table of another form.
    """
    try:
        return _read(config, origin)
    except NfpModelError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpecError(f"{origin}: the quantisation table is malformed ({error})") from None


def _read(config: Mapping[str, Any], origin: str) -> Quantization:
    method = config.get("quant_method")
    excluded = _names(config, "modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers")
    if method in ("fp8", "fbgemm_fp8"):
        scheme = Quantization(default="fp8_block" if config.get("weight_block_size") else "fp8", excluded=excluded)
    elif method == "mxfp4":
        scheme = Quantization(default="mxfp4", excluded=excluded, only=frozenset({"experts"}))
    elif method in ("awq", "gptq", "auto-round"):
        scheme = _integer_scheme(config, excluded, origin)
    elif method == "compressed-tensors":
        scheme = _group_scheme(config, excluded, origin)
    elif method in (None, "modelopt", "modelopt_fp4") and config.get("quant_algo"):
        scheme = _algorithm_scheme(config, excluded, origin)
    else:
        known = "fp8, fbgemm_fp8, mxfp4, compressed-tensors, modelopt, awq, gptq"
        raise UnsupportedError(f"{origin}: quant_method {method!r} is not known; known: {known}")
    return Quantization(
        scheme.default, scheme.named, scheme.excluded, scheme.only, _kv_dtype(config, origin), scheme.notes
    )


def _names(config: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    names = tuple(name for key in keys for name in (config.get(key) or ()))
    if not all(isinstance(name, str) for name in names):
        raise TypeError("module names must be text")
    return names


def _integer_scheme(config: Mapping[str, Any], excluded: tuple[str, ...], origin: str) -> Quantization:
    bits, group_size = config.get("bits", config.get("w_bit")), config.get("group_size", config.get("q_group_size"))
    dtype = _weights_dtype({"num_bits": bits, "type": "int", "group_size": group_size}, "", origin)
    dtype = WEIGHT_ONLY.get(dtype, dtype)
    named = {"lm_head": dtype} if config.get("lm_head") else {}
    return Quantization(default=dtype, named=named, excluded=excluded, notes=_group_note(dtype, group_size))


def _group_scheme(config: Mapping[str, Any], excluded: tuple[str, ...], origin: str) -> Quantization:
    default: str | None = None
    named: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    for group in (config.get("config_groups") or {}).values():
        weights = group.get("weights")
        if not weights:
            continue
        dtype = _weights_dtype(weights, group.get("format") or config.get("format") or "", origin)
        if not group.get("input_activations"):
            dtype = WEIGHT_ONLY.get(dtype, dtype)
        notes += _group_note(dtype, weights.get("group_size"))
        for target in group.get("targets") or ["Linear"]:
            if target == "Linear":
                default = dtype
            else:
                named[target] = dtype
    if default is None and not named:
        raise UnsupportedError(f"{origin}: compressed-tensors without a config group that quantises weights")
    return Quantization(default=default, named=named, excluded=excluded, notes=notes)


def _algorithm_scheme(config: Mapping[str, Any], excluded: tuple[str, ...], origin: str) -> Quantization:
    layers = config.get("quantized_layers") or {}
    algorithms = {name: str(layer.get("quant_algo")) for name, layer in layers.items()}
    overall = str(config["quant_algo"])
    mixed = overall == "MIXED_PRECISION"
    for algorithm in {*algorithms.values()} | (set() if mixed else {overall}):
        if algorithm not in ALGORITHMS:
            known = ", ".join(ALGORITHMS)
            raise UnsupportedError(f"{origin}: quant_algo {algorithm} has no storage format here; known: {known}")
    if mixed and not layers:
        raise UnsupportedError(f"{origin}: quant_algo MIXED_PRECISION without quantized_layers")
    named = {name: ALGORITHMS[algorithm] for name, algorithm in algorithms.items()}
    default = None if mixed else ALGORITHMS[overall]
    notes: tuple[str, ...] = ()
    if "W4A8_AWQ" in (overall, *algorithms.values()):
        notes = ("W4A8_AWQ is stored as int4; its math in 8 bits is counted in 16",)
    return Quantization(default=default, named=named, excluded=excluded, notes=notes)


def _weights_dtype(weights: Mapping[str, Any], layout: str, origin: str) -> str:
    bits, kind = weights.get("num_bits"), weights.get("type", "int")
    if layout.startswith("mxfp4"):
        return "mxfp4"
    if (bits, kind) == (8, "float"):
        return "fp8_block" if weights.get("strategy") == "block" else "fp8"
    if (bits, kind) == (4, "float"):
        return "mxfp4" if weights.get("group_size") == 32 else "nvfp4"
    if (bits, kind) == (4, "int"):
        return INT4_GROUPS.get(weights.get("group_size"), "int4")
    if (bits, kind) == (8, "int"):
        return "int8"
    raise UnsupportedError(
        f"{origin}: {bits}-bit {kind} weights have no storage format here; known: 8 or 4 bits, int or float"
    )


def _group_note(dtype: str, group_size: int | None) -> tuple[str, ...]:
    """Where no format has scales of this density, say how far the bytes are off."""
    if dtype != "int4" or group_size is None or group_size in INT4_GROUPS:
        return ()
    if group_size == -1:
        return ("int4 with one scale a channel takes 4 bits a weight; the int4 format counts 4.125",)
    actual = 4 + 16 / int(group_size)
    return (f"int4 in groups of {group_size} takes {actual:g} bits a weight; the int4 format counts 4.125",)


def _kv_dtype(config: Mapping[str, Any], origin: str) -> str | None:
    algorithm, scheme = config.get("kv_cache_quant_algo"), config.get("kv_cache_scheme")
    if isinstance(scheme, str):
        algorithm = scheme
    if algorithm:
        if algorithm not in ALGORITHMS:
            raise UnsupportedError(f"{origin}: KV-cache quantisation {algorithm} has no storage format here")
        return ALGORITHMS[algorithm]
    return _weights_dtype(scheme, "", origin) if scheme else None


def group_dtype(scheme: Quantization, group: str, modules: Iterable[tuple[str, int]], base: str) -> tuple[str, float]:
    """Format that most of a weight group's parameters have, and the share that has it.

    Parameters
    ----------
    scheme : Quantization
        What was quantised.
    group : str
        Weight group.
    modules : iterable of (str, int)
        Module names and their parameters [parameters].
    base : str
        Format of what is not quantised.

    Examples
    --------
    >>> group_dtype(Quantization("fp8", excluded=("q_proj",)), "attention", [("q_proj", 1), ("o_proj", 3)], "bfloat16")
    ('fp8', 0.75)
    """
    weights: dict[str, int] = {}
    for module, parameters in modules:
        dtype = scheme.dtype_of(module, group, base)
        weights[dtype] = weights.get(dtype, 0) + parameters
    chosen = max(weights, key=lambda dtype: weights[dtype])
    return chosen, weights[chosen] / sum(weights.values())
