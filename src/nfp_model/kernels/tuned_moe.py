"""Tuned fused-MoE files of vLLM and SGLang: found by their file-name convention, read at the nearest key, as they do.

A file ``E=<experts>,N=<width>,device_name=<device>[,dtype=<tag>][,block_shape=[a,b]].json`` maps token counts to launch
settings. Experts and width are those of the weight tensor on one rank. (vLLM 0.33.0 ``fused_moe.py``,
``get_config_file_name`` and ``get_moe_configs``; SGLang 0.5.23 ``fused_moe_triton_config.py``.)
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nfp_model.errors import SpecError, UnsupportedError
from nfp_model.operators import FusedMoE
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.moe_kernel import MoEKernel, TunedShape

DTYPE_TAGS = {
    "bfloat16": "",
    "float16": "",
    "fp8": ",dtype=fp8_w8a8",
    "fp8_block": ",dtype=fp8_w8a8,block_shape=[128,128]",
    "int8": ",dtype=int8_w8a8",
    "int4": ",dtype=int4_w4a16",
}
"""Storage format -> what its file name carries after the device."""

DEVICE_NAMES = {
    "a10": "NVIDIA_A10",
    "a100_sxm4_40gb": "NVIDIA_A100-SXM4-40GB",
    "a100_sxm4_80gb": "NVIDIA_A100-SXM4-80GB",
    "a100_pcie_80gb": "NVIDIA_A100_80GB_PCIe",
    "a100_pcie_40gb": "NVIDIA_A100-PCIe-40GB",
    "l4": "NVIDIA_L4",
    "l40s": "NVIDIA_L40S",
    "rtx_4090": "NVIDIA_GeForce_RTX_4090",
    "rtx_5090": "NVIDIA_GeForce_RTX_5090",
    "rtx_pro_6000_blackwell": "NVIDIA_RTX_PRO_6000_Blackwell_Server_Edition",
    "h100_sxm5": "NVIDIA_H100_80GB_HBM3",
    "h100_pcie": "NVIDIA_H100_PCIe",
    "h100_nvl": "NVIDIA_H100_NVL",
    "h200_sxm": "NVIDIA_H200",
    "h20": "NVIDIA_H20",
    "h800_sxm": "NVIDIA_H800",
    "b200_sxm": "NVIDIA_B200",
    "gb200": "NVIDIA_GB200",
    "mi300x": "AMD_Instinct_MI300X",
    "mi355x": "AMD_Instinct_MI355X",
    "mi325x": "AMD_Instinct_MI325X",
}
"""Hardware spec -> device part of the file names in vLLM's ``fused_moe/configs`` folder."""

_TAG = r"(?P<tag>(?:,dtype=[a-z0-9_]+)?(?:,block_shape=\[\d+, ?\d+\])?)"
_NAME = re.compile(
    rf"E=(?P<experts>\d+),N=(?P<width>\d+),device_name=(?P<device>[^,]+){_TAG}(?:,per_channel_quant=True)?\.json"
)


def tuned_file_name(operator: FusedMoE, device_name: str) -> str:
    """File name under which both engines look for this layer's tuned settings.

    Parameters
    ----------
    operator : FusedMoE
        Its local experts, local width and weight type are part of the name; top-k is not.
    device_name : str
        Device as the driver names it, spaces as underscores.

    Raises
    ------
    UnsupportedError
        For a weight format the tuned files do not cover.

    Examples
    --------
    >>> tuned_file_name(FusedMoE(4096, 14336, 8, 2), "NVIDIA_H200")
    'E=8,N=14336,device_name=NVIDIA_H200.json'
    """
    if operator.weight_dtype not in DTYPE_TAGS:
        raise UnsupportedError(
            f"no tuned fused-MoE files for {operator.weight_dtype}; they cover {', '.join(DTYPE_TAGS)}"
        )
    tag = DTYPE_TAGS[operator.weight_dtype]
    device = device_name.replace(" ", "_")
    return f"E={operator.local_experts},N={operator.local_width},device_name={device}{tag}.json"


def find_tuned_file(
    folder: Path, operator: FusedMoE, device_name: str, triton_version: str | None = None
) -> Path | None:
    """The tuned file of a layer in a configuration folder, or None.

    vLLM keeps the files in one folder; SGLang in ``triton_<version>`` subfolders: the running version first, then the
    others from the newest down.

    Parameters
    ----------
    folder : Path
        Value of ``VLLM_TUNED_CONFIG_FOLDER`` or ``SGLANG_MOE_CONFIG_DIR``, or an engine's own configs folder.
    operator, device_name
        As for :func:`tuned_file_name`.
    triton_version : str or None
        Running Triton, for example ``3.5.0``.

    Raises
    ------
    SpecError
        When the folder does not exist.
    """
    if not folder.is_dir():
        raise SpecError(f"{folder}: no such folder of tuned fused-MoE files")
    name = tuned_file_name(operator, device_name)
    versions = sorted(folder.glob("triton_*"), key=_version, reverse=True)
    if triton_version is not None:
        versions.sort(key=lambda path: _version(path) != _version(Path(f"triton_{triton_version}")))
    return next((path / name for path in (folder, *versions) if (path / name).is_file()), None)


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", path.name))


def read_tuned_file(path: Path, devices: tuple[str, ...] = ()) -> TunedShape:
    """Read one tuned file.

    Parameters
    ----------
    path : Path
        File named by the engines' convention.
    devices : tuple of str
        Hardware specs it is for; empty for the one its name tells, or for any where that device has no spec.

    Raises
    ------
    SpecError
        For a name outside the convention or contents that are no settings per token count.
    """
    match = _NAME.fullmatch(path.name)
    tag = match["tag"].replace(" ", "") if match else ""
    dtypes = tuple(dtype for dtype, known in DTYPE_TAGS.items() if known == tag)
    if match is None or not dtypes:
        allowed = "E=<experts>,N=<width>,device_name=<device>[,dtype=<tag>][,block_shape=[128,128]].json"
        raise SpecError(f"{path}: not a tuned fused-MoE file name; expected {allowed}")
    settings = _settings(path)
    depths = [setting.get("BLOCK_SIZE_K") for _, setting in settings]
    named = tuple(name for name, device in DEVICE_NAMES.items() if device == match["device"])
    return TunedShape.from_mapping(
        {
            "devices": devices or named,
            "num_experts": int(match["experts"]),
            "width": int(match["width"]),
            "weight_dtypes": dtypes,
            "tokens": [tokens for tokens, _ in settings],
            "block_rows": [setting["BLOCK_SIZE_M"] for _, setting in settings],
            "block_columns": [setting["BLOCK_SIZE_N"] for _, setting in settings],
            "block_depth": depths if all(depths) else None,
            "source": path.name,
        },
        str(path),
    )


def _settings(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Numeric keys with their settings, in the file's order: the first of two equally near keys wins."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = [(int(key), setting) for key, setting in data.items() if key.isdecimal()]
    except (OSError, ValueError, AttributeError) as error:
        raise SpecError(f"{path}: not a JSON object of settings per token count ({error})") from None
    if not found:
        raise SpecError(f"{path}: no token counts among its keys")
    for tokens, setting in found:
        missing = {"BLOCK_SIZE_M", "BLOCK_SIZE_N"} - set(setting if isinstance(setting, dict) else ())
        if missing:
            raise SpecError(f"{path}: key '{tokens}' lacks {', '.join(sorted(missing))}")
    return found


def with_tuned_files(
    kernel: MoEKernel, location: Path, hardware: HardwareSpec, operator: FusedMoE, device_name: str | None = None
) -> MoEKernel:
    """The kernel with a user's tuned file, or the fitting one of a folder, put before everything it knows.

    Parameters
    ----------
    kernel : MoEKernel
        Block rule to override.
    location : Path
        A tuned file, used for this hardware whatever device its name tells, or a folder of them.
    hardware, operator
        What runs.
    device_name : str or None
        Device part of the file name; None for the usual name of the hardware.

    Returns
    -------
    MoEKernel
        The kernel unchanged when the folder has no fitting file.

    Raises
    ------
    SpecError
        For a missing folder, a malformed file, or a single file made for another shape or data type.
    """
    if location.is_dir() or location.suffix != ".json":
        name = device_name or DEVICE_NAMES.get(hardware.name, hardware.title.replace(" ", "_"))
        path = find_tuned_file(location, operator, name)
        if path is None:
            return kernel
    else:
        path = location
    shape = read_tuned_file(path, (hardware.name,))
    wanted = (operator.local_experts, operator.local_width)
    if (shape.num_experts, shape.width) != wanted or operator.weight_dtype not in shape.weight_dtypes:
        raise SpecError(
            f"{path}: tuned for E={shape.num_experts}, N={shape.width}, {' or '.join(shape.weight_dtypes)}; "
            f"the layer has E={wanted[0]}, N={wanted[1]}, {operator.weight_dtype}"
        )
    return kernel.model_copy(update={"tuned": (shape, *kernel.tuned)})
