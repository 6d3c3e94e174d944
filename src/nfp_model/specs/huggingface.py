"""Any model from its Hugging Face ``config.json``: plain JSON in, a :class:`ModelSpec` out; nothing is run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfp_model.errors import MissingDependencyError, SpecError, UnsupportedError, nearest
from nfp_model.quantities import canonical_dtype
from nfp_model.specs.hf_families import FAMILIES, Family
from nfp_model.specs.hf_hybrids import draft_blocks, draft_nemotron_h
from nfp_model.specs.hf_layers import Draft, draft_regular
from nfp_model.specs.hf_reader import ConfigReader
from nfp_model.specs.model import ModelSpec
from nfp_model.specs.quantization import Quantization, group_dtype, read_quantization

_LEFT_OUT = {"vision_config": "vision tower", "audio_config": "audio tower"}
_COMMON = (
    "max_position_embeddings", "num_key_value_heads", "head_dim", "tie_word_embeddings", "dtype", "torch_dtype",
    "attention_bias", "mlp_bias", "sliding_window", "quantization_config",
)  # fmt: skip
_MTP_KEYS = ("num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers")


def from_hf_config(
    source: str | Path | Mapping[str, Any], name: str | None = None, hf_quant_config: Mapping[str, Any] | None = None
) -> ModelSpec:
    """The language model a Hugging Face configuration describes.

    Multi-token-prediction layers and vision or audio towers are left out; ``notes`` says so, and names every field that
    is present but neither understood nor known to be irrelevant, and everything stated by a detour.

    Parameters
    ----------
    source : str, Path or mapping
        A ``config.json``, the folder that holds it, its content, or a hub id (``"org/name"``, which needs the ``hf``
        extra and downloads the configuration only). A ``hf_quant_config.json`` beside the file is read too.
    name : str or None
        Key of the model; by default from the file, the folder or the hub id.
    hf_quant_config : mapping or None
        Content of a separate ``hf_quant_config.json``; it replaces the file's own ``quantization_config``.

    Returns
    -------
    ModelSpec
        With storage formats per weight group, and per layer where they differ.

    Raises
    ------
    SpecError
        For a file that is missing, no JSON, or contradicts itself; the message names the fields.
    UnsupportedError
        For an architecture or a quantisation a model spec cannot state; the message names what is missing.
    MissingDependencyError
        For a hub id without ``huggingface_hub``.

    Examples
    --------
    >>> tiny = {"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    ...         "head_dim": 32, "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 512,
    ...         "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    >>> model = from_hf_config(tiny, name="tiny")
    >>> model.num_layers, model.ffn["moe"].num_experts, model.total_parameters == model.active_parameters
    (2, 8, False)
    """
    data, beside, origin, default_name = _load(source)
    nested = data.get("text_config")
    config = nested if isinstance(nested, dict) else data
    family_name = _family_name(data, config, origin)
    family = FAMILIES[family_name]
    config = dict(family.defaults) | {key: value for key, value in config.items() if value is not None}
    cfg = ConfigReader(config, data if nested else {}, origin)
    cfg.refuse_beyond()
    hidden = cfg.need("hidden size", "hidden_size", "d_model")
    match family_name:
        case "nemotron_h":
            draft = draft_nemotron_h(cfg, family, hidden)
        case "nemotron-nas":
            draft = draft_blocks(cfg, family, hidden)
        case _:
            draft = draft_regular(cfg, family, hidden)
    scheme = _quantization(cfg, hf_quant_config, beside)
    return _assemble(cfg, family, draft, scheme, name or default_name, hidden)


def _load(source: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None, str, str]:
    """Content of the configuration and of the quantisation file beside it, origin for messages, default name."""
    if isinstance(source, Mapping):
        name = str(source.get("_name_or_path") or source.get("model_type") or "model")
        return dict(source), None, "config", Path(name).name or "model"
    path = Path(source)
    if path.is_dir():
        path = path / "config.json"
    if not path.exists() and isinstance(source, str) and _is_hub_id(source):
        return _download(source)
    beside = path.with_name(path.name.replace("config.json", "hf_quant_config.json"))
    stem = path.name.removesuffix(".json").removesuffix("config").rstrip("_-.")
    name = stem.rpartition("--")[2] or path.resolve().parent.name
    return _read_json(path), _read_json(beside) if beside != path and beside.is_file() else None, str(path), name


def _is_hub_id(source: str) -> bool:
    parts = source.split("/")
    return (
        len(parts) == 2 and all(parts) and not source.startswith((".", "~")) and not source.endswith((".json", ".toml"))
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise SpecError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise SpecError(f"{path}: a configuration is a JSON object, got {type(data).__name__}")
    return data


def _download(hub_id: str) -> tuple[dict[str, Any], dict[str, Any] | None, str, str]:
    """The two JSON files of a hub repository; no code of it is fetched, let alone run."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import EntryNotFoundError
    except ImportError:
        raise MissingDependencyError(
            f"'{hub_id}' is a hub id, which needs huggingface_hub; "
            "install nfp-model[hf] or give the path of its config.json"
        ) from None
    try:
        config = _read_json(Path(hf_hub_download(hub_id, "config.json")))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SpecError(
            f"'{hub_id}': no such file, and its config.json cannot be had from the hub ({reason})"
        ) from None
    try:
        beside = _read_json(Path(hf_hub_download(hub_id, "hf_quant_config.json")))
    except EntryNotFoundError:
        beside = None
    return config, beside, hub_id, hub_id.rpartition("/")[2]


def _family_name(data: Mapping[str, Any], config: Mapping[str, Any], origin: str) -> str:
    """The entry of :data:`FAMILIES`, from the inner model type, else the outer one."""
    if "LLaDAMoEModelLM" in str(data.get("architectures")):
        return "llada_moe"
    names = [str(source["model_type"]) for source in (config, data) if source.get("model_type")]
    for model_type in names:
        if model_type in FAMILIES:
            return model_type
    reader = ConfigReader(dict(config), dict(data) if config is not data else {}, origin)
    reader.refuse_beyond()
    concepts = {
        "hidden size": ("hidden_size", "d_model"),
        "number of layers": ("num_hidden_layers", "n_layers"),
        "number of attention heads": ("num_attention_heads", "n_heads"),
        "feed-forward width": ("intermediate_size", "moe_intermediate_size"),
        "vocabulary": ("vocab_size",),
    }
    missing = [concept for concept, fields in concepts.items() if not reader.get(*fields)]
    for field in _COMMON:
        reader.get(field)
    given = f"model_type '{names[0]}'" if names else "a configuration without model_type"
    near = nearest(names[0], FAMILIES) if names else []
    message = f"{origin}: {given} is no known architecture" + (f" (nearest: '{near[0]}')" if near else "")
    message += f"; it states no {', no '.join(missing)}" if missing else ""
    unread = list(reader.unread())
    raise UnsupportedError(message + (f"; fields not understood: {', '.join(unread)}" if unread else ""))


def _quantization(cfg: ConfigReader, given: Mapping[str, Any] | None, beside: dict[str, Any] | None) -> Quantization:
    """The scheme in force: the caller's file, the configuration's own table, the file beside it."""
    own = cfg.get("quantization_config", "compression_config")
    separate = given if given is not None else beside
    table = separate.get("quantization", separate) if separate else None
    chosen = table if given is not None or own is None else own
    if not chosen:
        return Quantization()
    scheme = read_quantization(chosen, cfg.origin)
    if scheme.kv_dtype is None and chosen is own and table:
        kv_only = read_quantization(table, cfg.origin).kv_dtype
        scheme = Quantization(scheme.default, scheme.named, scheme.excluded, scheme.only, kv_only, scheme.notes)
    return scheme


def _assemble(
    cfg: ConfigReader, family: Family, draft: Draft, scheme: Quantization, name: str, hidden: int
) -> ModelSpec:
    base = canonical_dtype(str(cfg.get("dtype", "torch_dtype", default="bfloat16")).removeprefix("torch."))
    dtypes, groups, mixed = _storage(draft, scheme, base)
    head = scheme.dtype_of("lm_head", "head", base)
    block = cfg.integer("block_size", default=0) if family.diffusion and family.diffusion.block_size else 0
    diffusion = (
        family.diffusion.model_copy(update={"block_size": block}) if family.diffusion and block else family.diffusion
    )
    spec: dict[str, Any] = {
        "name": name,
        "title": name,
        "hidden_size": hidden,
        "num_layers": len(draft.layers),
        "vocab_size": cfg.need("vocabulary", "embedding_size", "padded_vocab_size", default=cfg.integer("vocab_size")),
        "max_context_length": cfg.need("longest context", "max_position_embeddings", "max_sequence_length"),
        "tied_embeddings": cfg.flag("tie_word_embeddings", "weight_tying", default=family.tied),
        "head_bias": cfg.flag("lm_head_bias"),
        "dtype": base,
        "dtypes": dtypes | ({"head": head} if head != base else {}),
        "kv_dtype": scheme.kv_dtype,
        "attention": {key: part.model_dump() for key, part in draft.attention.items()},
        "ffn": {key: part.model_dump() for key, part in draft.ffn.items()},
        "layers": groups,
        "norms_per_layer": draft.norms_per_layer,
        "norm_bias": family.norm_bias,
        "extra_parameters": draft.extra_parameters,
        "diffusion": diffusion.model_dump() if diffusion else None,
        "source": f"Hugging Face configuration ({cfg.origin})",
    }
    spec["notes"] = [*draft.notes, *scheme.notes, *mixed, *_left_out(cfg), *_not_understood(cfg)]
    return ModelSpec.from_mapping(spec, cfg.origin)


def _storage(draft: Draft, scheme: Quantization, base: str) -> tuple[dict[str, str], list[dict[str, Any]], list[str]]:
    """Formats by weight group, layers of one shape and format together, notes on groups of several formats."""
    per_layer: list[dict[str, str]] = []
    mixed: Counter[str] = Counter()
    for layer in draft.layers:
        formats = {}
        for group, modules in layer.modules.items():
            formats[group], share = group_dtype(scheme, group, modules, base)
            if share < 1:
                mixed[
                    f"{group} weights have several formats; all are counted as {formats[group]}, held by {share:.0%}"
                ] += 1
        per_layer.append(formats)
    if all(formats["attention_output"] == formats["attention"] for formats in per_layer):
        for formats in per_layer:
            del formats["attention_output"]
    usual: dict[str, str] = {}
    for group in dict.fromkeys(group for formats in per_layer for group in formats):
        usual[group] = Counter(formats[group] for formats in per_layer if group in formats).most_common(1)[0][0]
    counted: Counter[tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]] = Counter()
    for layer, formats in zip(draft.layers, per_layer, strict=True):
        own = tuple((group, dtype) for group, dtype in formats.items() if dtype != usual[group])
        counted[layer.attention, layer.ffn, own] += 1
    groups = [
        {"count": count, "attention": attention, "ffn": list(ffn), "dtypes": dict(own)}
        for (attention, ffn, own), count in counted.items()
    ]
    notes = [f"{text} ({count} layers)" for text, count in mixed.items()]
    # The output projection falls back to the rest of attention, so that a difference is always stated.
    stated = {group: dtype for group, dtype in usual.items() if dtype != base or group == "attention_output"}
    return stated, groups, notes


def _left_out(cfg: ConfigReader) -> list[str]:
    notes = [f"{what} left out" for key, what in _LEFT_OUT.items() if cfg.get(key)]
    mtp = [value for key in _MTP_KEYS if isinstance(value := cfg.get(key), int) and value]
    return notes + ([f"{max(mtp)} multi-token-prediction layers left out"] if mtp else [])


def _not_understood(cfg: ConfigReader) -> list[str]:
    return [f"field not understood and not used: {key} = {_short(value)}" for key, value in cfg.unread().items()]


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
