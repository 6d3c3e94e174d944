"""Lists of hardware, models and calibrations, from their TOML files."""

from __future__ import annotations

from page_markup import code, codes, table, target, text

from nfp_model.specs.calibration import Calibration, Fit
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec
from nfp_model.specs.registry import load_hardware, load_model, load_spec, spec_names


def _tera(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e12:.5g}"


def hardware_list() -> str:
    """Summary table of every chip, then each with the source of every number."""
    chips = [load_hardware(name) for name in spec_names("hardware")]
    peaks = ("bfloat16", "fp8", "int8", "fp4")
    rows = [
        (
            f"[{text(chip.title)}](#chip-{chip.name.replace('_', '-')})",
            code(chip.architecture),
            str(chip.sm_count),
            *(_tera(chip.peak_flop_per_s.get(key)) for key in peaks),
            f"{chip.memory_bandwidth_bytes_per_s / 1e12:.4g}",
            f"{chip.memory_bytes / 1e9:.1f}",
            f"{chip.ridge_point():.0f}",
        )
        for chip in chips
    ]
    head = ("chip", "architecture", "SMs", *(f"{key} TFLOP/s" for key in peaks), "TB/s", "GB", "ridge FLOP/B")
    return table(head, rows) + "\n" + "\n".join(chip_section(chip) for chip in chips)


def chip_section(chip: HardwareSpec) -> str:
    """One chip: names and the source of every number, its notes."""
    sources = table(
        ("number", "value", "source"),
        ((code(path), text(_value(chip, path)), text(source)) for path, source in chip.sources.items()),
    )
    notes = "".join(f"- {text(note)}\n" for note in chip.notes)
    names = codes((chip.name, *chip.aliases))
    return f"{target('chip', chip.name)}## {text(chip.title)}\n\nNames: {names}.\n\n{sources}\n{notes}"


def _value(chip: HardwareSpec, path: str) -> str:
    value: object = chip
    for part in path.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    if isinstance(value, float | int):
        return f"{value:.12g}"
    if path == "matrix_instruction":
        shape = chip.matrix_instruction
        return f"{shape.name} {shape.rows} x {shape.columns} x {shape.depth}"
    tile = chip.default_tile
    return f"rows {_menu(tile.token_rows)}; experts {_menu(tile.moe_rows)}; attention {tile.attention_rows}"


def _menu(sizes: tuple[int, ...]) -> str:
    return "/".join(str(size) for size in sizes)


def model_list() -> str:
    """Every model: size, attention and FFN kinds, source of the architecture and of the published counts."""
    return table(
        (
            "model",
            "name",
            "layers",
            "total",
            "active",
            "attention",
            "FFN",
            "stored as",
            "architecture from",
            "published counts from",
        ),
        (_model_row(load_model(name)) for name in spec_names("model")),
    )


def _model_row(model: ModelSpec) -> tuple[str, ...]:
    attention = ", ".join(dict.fromkeys(layer.kind for layer in model.attention.values()))
    ffn = ", ".join(dict.fromkeys(layer.kind for layer in model.ffn.values()))
    return (
        text(model.title),
        code(model.name),
        str(model.num_layers),
        f"{model.total_parameters / 1e9:.2f} B",
        f"{model.active_parameters / 1e9:.2f} B",
        attention,
        ffn,
        code(model.dtype),
        text(model.source),
        text(model.published.source) if model.published else "",
    )


def calibration_list() -> str:
    """Every calibration file with what each fit was made from."""
    parts = []
    for name in spec_names("calibrations"):
        calibration = load_spec(Calibration, "calibrations", name)
        notes = "".join(f"- {text(note)}\n" for note in calibration.notes)
        head = ("operator", "data types", "constants", "points", "held out", "data", "date", "made by")
        fits = table(head, (_fit_row(fit) for fit in calibration.fits))
        parts.append(
            f"## {text(name)}\n\nHardware {code(calibration.hardware)}, backend {code(calibration.backend)}.\n\n{fits}\n{notes}"
        )
    return "\n".join(parts)


def _fit_row(fit: Fit) -> tuple[str, ...]:
    constants = ", ".join(f"{name} {value:.3g}" for name, value in fit.constants.items())
    data = f"{fit.data}; {fit.library_version}" if fit.library_version else fit.data
    return (
        code(fit.operator),
        codes(fit.dtypes) or "any",
        text(constants),
        str(fit.points or "-"),
        f"{fit.held_out.mape:.1%} over {fit.held_out.curves} curves" if fit.held_out else "-",
        text(data),
        fit.date,
        code(fit.command),
    )
