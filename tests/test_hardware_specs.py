"""The shipped hardware files against numbers their vendors printed, and the mistakes such files are known for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from nfp_model.errors import NfpModelError, SpecError, UnknownNameError, UnsupportedError
from nfp_model.quantities import ELEMENT_TYPES
from nfp_model.specs.hardware import DefaultTile, HardwareSpec, MatrixInstruction

FOLDER = Path(__file__).resolve().parents[1] / "hardware_specs"
FILES = sorted(path for vendor in ("nvidia", "amd", "google") for path in (FOLDER / vendor).glob("*.toml"))
SPECS = {path.stem: HardwareSpec.from_toml(path) for path in FILES}
MIB = 2**20

# Dense peak over bandwidth [FLOP/B], rounded to whole numbers: quotients of the peaks and bandwidths the vendors print
# (NVIDIA datasheets of each card, Ada and RTX Blackwell whitepapers; AMD datasheets of MI300X, MI325X, MI355X; Google
# Cloud TPU docs). Columns: bf16, tf32, fp8, int8, fp4.
BALANCE: dict[str, tuple[int | None, ...]] = {
    "a100_sxm4_40gb": (201, 100, None, 401, None),
    "a100_pcie_40gb": (201, 100, None, 401, None),
    "a100_sxm4_80gb": (153, 77, None, 306, None),
    "a100_pcie_80gb": (161, 81, None, 322, None),
    "a40": (215, 107, None, 430, None),
    "a10": (208, 104, None, 417, None),
    "l4": (403, 200, 808, 808, None),
    "l40s": (419, 212, 848, 848, None),
    "rtx_4090": (164, 82, 328, 655, None),
    "rtx_5090": (117, 58, 234, 468, 935),
    "rtx_pro_6000_blackwell": (281, 141, 562, 562, 1124),
    "h100_sxm5": (295, 148, 591, 591, None),
    "h100_pcie": (378, 189, 756, 756, None),
    "h100_nvl": (214, 107, 428, 428, None),
    "h200_sxm": (206, 103, 412, 412, None),
    "h20": (37, 18, 74, 74, None),
    "h800_sxm": (295, 148, 591, 591, None),
    "gh200_96gb": (247, 124, 495, 495, None),
    "gh200_144gb": (202, 101, 404, 404, None),
    "b200_sxm": (292, 146, 584, 584, 1169),
    "gb200": (312, 156, 625, 625, 1250),
    "b300_sxm": (290, 145, 581, 20, 1806),
    "gb300": (312, 156, 625, 21, 1875),
    "mi300x": (247, 123, 493, 493, None),
    "mi325x": (218, 109, 436, 436, None),
    "mi355x": (315, None, 629, 629, 1258),
    "tpu_v5e": (241, None, None, 480, None),
    "tpu_v5p": (166, None, 166, 332, None),
    "tpu_v6e": (560, None, 560, 1121, None),
}

# Clock [MHz] the bf16 peak implies, and the dense bf16 FLOP per clock per SM it is worked out with: NVIDIA GA100,
# GA102, Ada, GH100, RTX Blackwell whitepapers, AMD CDNA3 whitepaper. A v5 TPU core has 4 MXU of 128 x 128 (TPU docs).
IMPLIED_CLOCK = {
    "a100_sxm4_40gb": (1411, 2048),
    "a100_pcie_40gb": (1411, 2048),
    "a100_sxm4_80gb": (1411, 2048),
    "a100_pcie_80gb": (1411, 2048),
    "a40": (1740, 1024),
    "a10": (1695, 1024),
    "l4": (2037, 1024),
    "l40s": (2490, 1024),
    "rtx_4090": (2521, 512),
    "rtx_5090": (2407, 512),
    "rtx_pro_6000_blackwell": (2617, 1024),
    "h100_sxm5": (1830, 4096),
    "h100_pcie": (1620, 4096),
    "h100_nvl": (1544, 4096),
    "h200_sxm": (1830, 4096),
    "h20": (463, 4096),
    "h800_sxm": (1830, 4096),
    "gh200_96gb": (1830, 4096),
    "gh200_144gb": (1830, 4096),
    "b200_sxm": (1856, 8192),
    "gb200": (2008, 8192),
    "b300_sxm": (1856, 8192),
    "gb300": (2008, 8192),
    "mi300x": (2100, 2048),
    "mi325x": (2100, 2048),
    "mi355x": (2400, 4096),
    "tpu_v5e": (1503, 4 * 128 * 128 * 2),
    "tpu_v5p": (1751, 4 * 128 * 128 * 2),
}

# NVIDIA/cccl, libcudacxx/include/cuda/__device/arch_traits.h: KiB per SM, KiB per block (opt-in), blocks, threads.
PER_SM = {
    "sm80": (164, 163, 32, 2048),
    "sm86": (100, 99, 16, 1536),
    "sm89": (100, 99, 24, 1536),
    "sm90": (228, 227, 32, 2048),
    "sm100": (228, 227, 32, 2048),
    "sm103": (228, 227, 32, 2048),
    "sm120": (100, 99, 24, 1536),
}

GENERATION = {
    "sm80": "ampere",
    "sm86": "ampere",
    "sm89": "ada",
    "sm90": "hopper",
    "sm100": "blackwell",
    "sm103": "blackwell",
    "sm120": "blackwell_rtx",
    "cdna3": "cdna",
    "cdna4": "cdna",
    "tpu": "tpu",
}


def mapping(name: str) -> dict[str, Any]:
    """A shipped file as it is written, for a test to spoil."""
    path = next(path for path in FILES if path.stem == name)
    return tomllib.loads(path.read_text(encoding="utf-8"))


def test_the_files_are_the_devices_of_the_table() -> None:
    assert sorted(SPECS) == sorted(BALANCE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_name_and_folder_are_those_of_the_file(path: Path) -> None:
    spec = SPECS[path.stem]
    assert (spec.name, spec.vendor) == (path.stem, path.parent.name)
    assert spec.generation == GENERATION[spec.architecture]


def test_names_and_aliases_are_unique() -> None:
    words = [word for spec in SPECS.values() for word in (spec.name, *spec.aliases)]
    assert sorted(words) == sorted(set(words))


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("h100", "h100_sxm5"),
        ("h200", "h200_sxm"),
        ("a100", "a100_sxm4_80gb"),
        ("b200", "b200_sxm"),
        ("b300", "b300_sxm"),
        ("rtx_pro_6000", "rtx_pro_6000_blackwell"),
        ("rtx4090", "rtx_4090"),
    ],
)
def test_short_names_mean_the_usual_variant(alias: str, name: str) -> None:
    assert alias in SPECS[name].aliases


@pytest.mark.parametrize("name", BALANCE)
def test_ridge_points(name: str) -> None:
    for rate, printed in zip(("bfloat16", "tf32", "fp8", "int8", "fp4"), BALANCE[name], strict=True):
        if printed is None:
            assert rate not in SPECS[name].peak_flop_per_s
        else:
            # The table is rounded to whole numbers, which below 50 is coarser than 1 %.
            assert SPECS[name].ridge_point(rate) == pytest.approx(printed, rel=0.01, abs=0.51)


@pytest.mark.parametrize("name", IMPLIED_CLOCK)
def test_implied_clock(name: str) -> None:
    megahertz, rate = IMPLIED_CLOCK[name]
    clock = SPECS[name].implied_clock_hz
    assert SPECS[name].flop_per_clock_per_sm == rate
    assert clock is not None
    assert clock / 1e6 == pytest.approx(megahertz, abs=0.6)


def test_clock_is_unchecked_only_where_no_clock_is_published() -> None:
    unclocked = {name for name, spec in SPECS.items() if spec.boost_clock_hz is None}
    assert unclocked == {"b200_sxm", "gb200", "b300_sxm", "gb300", "tpu_v6e"}
    assert {name for name, spec in SPECS.items() if spec.implied_clock_hz is None} == {"tpu_v6e"}


# The H20's peaks are cut to a quarter of what its clock allows, so that doubling them goes unseen.
CLOCKED = [name for name, spec in SPECS.items() if spec.boost_clock_hz is not None and name != "h20"]


@pytest.mark.parametrize("which", ["bfloat16", "all"])
@pytest.mark.parametrize("name", CLOCKED)
def test_a_sparse_peak_is_refused(name: str, which: str) -> None:
    """2:4 sparsity doubles a peak: datasheets print that number first, and several tools took it for the dense one."""
    data = mapping(name)
    for rate in data["peak_flop_per_s"]:
        if which in (rate, "all"):
            data["peak_flop_per_s"][rate] *= 2
    with pytest.raises(
        SpecError, match=r"implies a clock of \d+ MHz, above the boost clock of \d+ MHz; .* sparse number\?"
    ):
        HardwareSpec.from_mapping(data)


@pytest.mark.parametrize("rate", ["fp8", "tf32", "float16"])
def test_one_sparse_peak_beside_dense_ones_is_refused(rate: str) -> None:
    data = mapping("b200_sxm")
    data["peak_flop_per_s"][rate] *= 2
    with pytest.raises(SpecError, match=rf"peak_flop_per_s\.{rate} is \S+ times the bfloat16 peak.*sparse number\?"):
        HardwareSpec.from_mapping(data)


@pytest.mark.parametrize(
    ("name", "sparse"),
    [("b200_sxm", 18e15), ("rtx_5090", 3352e12), ("rtx_pro_6000_blackwell", 4000e12), ("b300_sxm", 18e15)],
)
def test_marketing_fp4_is_refused(name: str, sparse: float) -> None:
    """The sparse fp4 numbers on NVIDIA's product pages."""
    data = mapping(name)
    data["peak_flop_per_s"]["fp4"] = sparse
    with pytest.raises(SpecError, match=r"peak_flop_per_s\.fp4 is \S+ times the (fp8|int8) peak"):
        HardwareSpec.from_mapping(data)


def test_a_peak_is_needed_for_bfloat16_and_nothing_unknown() -> None:
    data = mapping("h100_sxm5")
    data["peak_flop_per_s"]["bf8"] = 1e15
    with pytest.raises(SpecError, match=r"unknown peak 'bf8'; allowed: float32, tf32, "):
        HardwareSpec.from_mapping(data)
    del data["peak_flop_per_s"]["bf8"], data["peak_flop_per_s"]["bfloat16"]
    with pytest.raises(SpecError, match="peak_flop_per_s needs 'bfloat16'"):
        HardwareSpec.from_mapping(data)


@pytest.mark.parametrize("bad", [0.0, -1e12])
def test_a_peak_is_above_zero(bad: float) -> None:
    data = mapping("h100_sxm5")
    data["peak_flop_per_s"]["fp8"] = bad
    with pytest.raises(SpecError, match=r"peak_flop_per_s\.fp8 must be above 0"):
        HardwareSpec.from_mapping(data)


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("sm_count", "sm_cuont", "unknown key 'sm_cuont'; did you mean 'sm_count'"),
        ("l2_bytes", "l2_byts", "unknown key 'l2_byts'; did you mean 'l2_bytes'"),
        ("scale_up_name", "scale_up_nmae", "unknown key 'interconnect.scale_up_nmae'; did you mean 'scale_up_name'"),
    ],
)
def test_unknown_key_names_the_file_the_key_and_the_nearest(right: str, wrong: str, told: str, tmp_path: Path) -> None:
    lines = (FOLDER / "nvidia" / "h100_sxm5.toml").read_text(encoding="utf-8").splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith(f"{right} = "))
    path = tmp_path / "mine.toml"
    path.write_text("\n".join([*lines[: at + 1], lines[at].replace(right, wrong), *lines[at + 1 :]]), encoding="utf-8")
    with pytest.raises(SpecError, match=re.escape(f"mine.toml: {told}")):
        HardwareSpec.from_toml(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_number_has_a_source_and_every_source_a_number(path: Path) -> None:
    """Reads the file itself, so that a number the validator forgot still needs its source."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    whole = {"matrix_instruction", "default_tile"}
    numbers = whole & data.keys()
    for key, value in data.items():
        if isinstance(value, (int, float)):
            numbers.add(key)
        elif isinstance(value, dict) and key not in whole | {"sources"}:
            numbers |= {f"{key}.{inner}" for inner, number in value.items() if isinstance(number, (int, float))}
    assert set(data["sources"]) == numbers
    assert all(len(source) > 5 for source in data["sources"].values())


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_number_without_its_source_is_refused(name: str) -> None:
    for path in SPECS[name].sources:
        data = mapping(name)
        del data["sources"][path]
        with pytest.raises(SpecError, match=f"no source given for {path}$"):
            HardwareSpec.from_mapping(data)


def test_a_source_of_nothing_is_refused() -> None:
    data = mapping("h100_sxm5")
    data["sources"]["peak_flop_per_s.fp4"] = "a typing error"
    with pytest.raises(
        SpecError, match=r"sources has 'peak_flop_per_s\.fp4', but .*did you mean 'peak_flop_per_s\.fp8'\?"
    ):
        HardwareSpec.from_mapping(data)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        # Bandwidth is decimal: 3.35 TB/s is 3.35e12 B/s, not 3.35 x 2^40 (the mistake of GenZ's unit.py).
        ("h100_sxm5", "memory_bandwidth_bytes_per_s", 3.35e12),
        ("a100_sxm4_80gb", "memory_bandwidth_bytes_per_s", 2.039e12),
        # Memory the driver counts in MiB is those bytes; marketing numbers are decimal.
        ("h200_sxm", "memory_bytes", 143_156 * MIB),
        ("b200_sxm", "memory_bytes", 182_642 * MIB),
        ("mi325x", "memory_bytes", 256e9),
        ("tpu_v5e", "memory_bytes", 16e9),
        # Caches: 2^20 B, as the CUDA driver's l2CacheSize reports them.
        ("a100_sxm4_80gb", "l2_bytes", 41_943_040),
        ("b200_sxm", "l2_bytes", 132_644_864),
        ("h200_sxm", "l2_bytes", 60 * MIB),
    ],
)
def test_bytes_are_plain_bytes(name: str, field: str, value: float) -> None:
    assert getattr(SPECS[name], field) == value


@pytest.mark.parametrize("name", sorted(SPECS))
def test_no_bandwidth_is_binary_or_in_bits(name: str) -> None:
    """Datasheets print bandwidth to at most four digits of GB/s; 2^30 or 2^40 B/s would leave a long tail."""
    spec = SPECS[name]
    for bandwidth in (
        spec.memory_bandwidth_bytes_per_s,
        spec.interconnect.scale_up_bandwidth_bytes_per_s,
        spec.interconnect.host_bandwidth_bytes_per_s,
    ):
        assert bandwidth is None or (bandwidth % 0.05e9 == 0 and 10e9 < bandwidth < 10e12)


@pytest.mark.parametrize("name", sorted(name for name, spec in SPECS.items() if spec.vendor == "nvidia"))
def test_resources_per_sm(name: str) -> None:
    spec = SPECS[name]
    per_sm, per_block, blocks, threads = PER_SM[spec.architecture]
    assert spec.shared_memory_bytes_per_sm == per_sm * 1024
    assert spec.shared_memory_bytes_per_cta == per_block * 1024
    assert (spec.max_ctas_per_sm, spec.max_threads_per_sm, spec.registers_per_sm) == (blocks, threads, 65_536)


def test_amd_gives_local_memory_but_no_occupancy_limits() -> None:
    """64 KB of LDS per CU on CDNA3, 160 KB on CDNA4 (AMD whitepapers)."""
    for name, kib in {"mi300x": 64, "mi325x": 64, "mi355x": 160}.items():
        spec = SPECS[name]
        assert spec.shared_memory_bytes_per_sm == kib * 1024
        assert (spec.max_ctas_per_sm, spec.max_threads_per_sm, spec.registers_per_sm) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "one_way"),
    [
        ("a100_sxm4_80gb", 300e9),  # NVLink 3, printed 600 GB/s
        ("h100_sxm5", 450e9),  # NVLink 4, printed 900
        ("h800_sxm", 200e9),  # cut to 400
        ("gb200", 900e9),  # NVLink 5, printed 1800
        ("mi300x", 448e9),  # 7 links, printed 896
        ("tpu_v5p", 600e9),  # ICI, printed 1200
    ],
)
def test_links_are_one_direction(name: str, one_way: float) -> None:
    assert SPECS[name].interconnect.scale_up_bandwidth_bytes_per_s == one_way


def test_token_quantum_by_family() -> None:
    """8 tokens with operands swapped on NVIDIA (PTX ISA) and on TPU sublanes, 16 rows of AMD's smallest bf16 MFMA."""
    for spec in SPECS.values():
        assert spec.matrix_instruction.token_quantum == (16 if spec.vendor == "amd" else 8)


@given(rows=st.integers(1, 512), columns=st.integers(1, 512))
def test_swapping_never_coarsens_the_quantum(rows: int, columns: int) -> None:
    swapped = MatrixInstruction(name="x", rows=rows, columns=columns, depth=16)
    straight = MatrixInstruction(name="x", rows=rows, columns=columns, depth=16, swappable=False)
    assert swapped.token_quantum == min(rows, columns) <= straight.token_quantum == rows


@given(factor=st.floats(0.01, 100.0))
def test_ridge_point_scales_with_bandwidth(factor: float) -> None:
    data = mapping("h100_sxm5")
    data["memory_bandwidth_bytes_per_s"] *= factor
    scaled = HardwareSpec.from_mapping(data)
    for rate in scaled.peak_flop_per_s:
        assert scaled.ridge_point(rate) * factor == pytest.approx(SPECS["h100_sxm5"].ridge_point(rate))


def test_tiles_must_fit_the_instruction() -> None:
    data = mapping("mi300x")
    data["default_tile"]["token_rows"] = [8, 16]
    with pytest.raises(SpecError, match="default_tile has 8 rows, no multiple of the 16 rows of mfma"):
        HardwareSpec.from_mapping(data)


@pytest.mark.parametrize("sizes", [[], [64, 32], [16, 16], [0, 16]])
def test_tile_menus_ascend(sizes: list[int]) -> None:
    data = {"token_rows": [16], "output_columns": sizes, "attention_rows": 64, "moe_rows": [16]}
    with pytest.raises(SpecError, match="output_columns must be ascending sizes above 0"):
        DefaultTile.from_mapping(data)


def test_a_block_cannot_have_more_shared_memory_than_its_sm() -> None:
    data = mapping("a100_sxm4_80gb")
    data["shared_memory_bytes_per_cta"] = 256 * 1024
    with pytest.raises(SpecError, match="shared_memory_bytes_per_cta = 262144 is more than the 167936"):
        HardwareSpec.from_mapping(data)


@pytest.mark.parametrize(
    ("name", "weights", "activations", "rate"),
    [
        ("h100_sxm5", "bfloat16", "bfloat16", "bfloat16"),
        ("h100_sxm5", "fp8_block", "bfloat16", "fp8"),
        ("h100_sxm5", "int4", "fp8", "fp8"),
        ("a100_sxm4_80gb", "int4", "bfloat16", "bfloat16"),
        ("b200_sxm", "nvfp4", "bfloat16", "fp4"),
        ("b200_sxm", "mxfp4", "bf16", "bfloat16"),
        ("b200_sxm", "mxfp4_w4a8", "fp8", "fp8"),
        ("b200_sxm", "nvfp4_w4a16", "bfloat16", "bfloat16"),
        ("a100_sxm4_80gb", "fp8_block", "bfloat16", "bfloat16"),
        ("h200_sxm", "nvfp4", "float16", "float16"),
    ],
)
def test_matrix_rate(name: str, weights: str, activations: str, rate: str) -> None:
    assert SPECS[name].matrix_rate_key(weights, activations) == rate
    assert SPECS[name].peak(weights, activations) == SPECS[name].peak_flop_per_s[rate]


@pytest.mark.parametrize(
    ("name", "weights"),
    [("tpu_v5e", "fp8"), ("mi300x", "nvfp4"), ("tpu_v5e", "float16"), ("mi300x", "float32")],
)
def test_a_missing_rate_lists_what_the_chip_can_run(name: str, weights: str) -> None:
    expected = f"{SPECS[name].title} has no matrix rate for {weights}; it can run .*bfloat16"
    with pytest.raises(UnsupportedError, match=expected) as caught:
        SPECS[name].peak(weights)
    able = str(caught.value).split("it can run ")[1].split(", ")
    assert set(able) < set(ELEMENT_TYPES)
    for dtype in able:
        assert SPECS[name].peak(dtype) > 0
    assert isinstance(caught.value, NfpModelError)


def test_ridge_point_of_an_unknown_rate() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown matrix rate of NVIDIA A100 SXM4 80GB 'fp8'"):
        SPECS["a100_sxm4_80gb"].ridge_point("fp8")


# aiconfigurator-core's yaml of each device, and where it knowingly differs from ours: cards without a bridge, the PCIe
# generation of the B200, PCIe instead of NVLink-C2C on Grace, peaks at an observed clock. Our files' notes say so too.
SYSTEMS: dict[str, tuple[str, set[str]]] = {
    "a100_sxm": ("a100_sxm4_80gb", set()),
    "a100_pcie": ("a100_pcie_80gb", {"intra_node_bw"}),
    "h100_sxm": ("h100_sxm5", set()),
    "h100_pcie": ("h100_pcie", {"intra_node_bw"}),
    "h200_sxm": ("h200_sxm", set()),
    "b200_sxm": ("b200_sxm", {"pcie_bw"}),
    "gb200": ("gb200", {"pcie_bw"}),
    "b300_sxm": ("b300_sxm", set()),
    "gb300": ("gb300", {"pcie_bw"}),
    "l4": ("l4", {"intra_node_bw"}),
    "l40s": ("l40s", {"intra_node_bw"}),
    "rtx_pro_6000_server": ("rtx_pro_6000_blackwell", {"intra_node_bw", "peaks"}),
}


@pytest.mark.silicon
@pytest.mark.parametrize("system", SYSTEMS)
def test_agrees_with_aiconfigurator(system: str) -> None:
    core = pytest.importorskip("aiconfigurator_core")
    yaml = pytest.importorskip("yaml")
    path = Path(core.__file__).parent / "systems" / f"{system}.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    theirs, node = data["gpu"], data["node"]
    name, differs = SYSTEMS[system]
    ours = SPECS[name]
    assert theirs["mem_bw"] == pytest.approx(ours.memory_bandwidth_bytes_per_s)
    assert theirs["power"] == ours.power_w
    assert f"sm{theirs['sm_version']}" == ours.architecture
    # Theirs is the marketing number in GiB where no driver total is stated: 7 % above an L4's driver total with ECC on.
    assert theirs["mem_capacity"] == pytest.approx(ours.memory_bytes, rel=0.07)
    scale = 2430 / 2617 if "peaks" in differs else 1.0  # theirs is at the clock they saw, 2430 MHz
    for key, rate in (("bfloat16", "bfloat16"), ("int8", "int8"), ("fp8", "fp8"), ("fp4", "fp4")):
        peak = theirs.get(f"{key}_tc_flops")
        assert (peak is None) == (rate not in ours.peak_flop_per_s)
        if peak is not None:
            assert peak == pytest.approx(ours.peak_flop_per_s[rate] * scale, rel=0.0025)
    links = ours.interconnect
    for key, one_way in (
        ("intra_node_bw", links.scale_up_bandwidth_bytes_per_s),
        ("pcie_bw", links.host_bandwidth_bytes_per_s),
    ):
        assert (node[key] == one_way) == (key not in differs)


@pytest.mark.silicon
@pytest.mark.parametrize(
    "system", ["gb200", "b300_sxm", "gb300", "l40s", "rtx_pro_6000_server", "a100_sxm", "a100_pcie"]
)
def test_driver_totals_are_those_aiconfigurator_saw(system: str) -> None:
    core = pytest.importorskip("aiconfigurator_core")
    yaml = pytest.importorskip("yaml")
    path = Path(core.__file__).parent / "systems" / f"{system}.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert SPECS[SYSTEMS[system][0]].memory_bytes == data["gpu"]["mem_capacity"]
