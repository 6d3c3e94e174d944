"""Every kernel and engine file: it validates, names a source for every row, and covers what it claims."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from nfp_model.errors import SpecError, UnknownNameError
from nfp_model.kernels.attention import attention_row
from nfp_model.kernels.gemm import gemm_row
from nfp_model.kernels.selection import default_row, kernel_key, select_attention, select_gemm, select_moe
from nfp_model.operators import Attention, FusedMoE, Gemm
from nfp_model.specs.attention_kernel import AttentionKernel
from nfp_model.specs.gemm_kernel import GemmKernel
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.kernel_library import (
    ENGINE_PREFIX,
    EngineDefaults,
    KernelLibrary,
    all_libraries,
    engine_names,
    load_engine,
    load_kernel,
    load_library,
)
from nfp_model.specs.moe_kernel import MoEKernel
from nfp_model.specs.registry import load_hardware, spec_files

FILES = spec_files("kernels")
LIBRARIES = list(all_libraries())
GEMMS = [kernel for library in LIBRARIES for kernel in library.gemm]
ATTENTIONS = [kernel for library in LIBRARIES for kernel in library.attention]
H100 = load_hardware("h100")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_validates_and_is_named_after_itself(path: Path) -> None:
    cls = EngineDefaults if path.stem.startswith(ENGINE_PREFIX) else KernelLibrary
    assert cls.from_toml(path).name == path.stem  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_sources_are_public(path: Path) -> None:
    """Every source names a file, a document or a release, never a place on somebody's machine."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/home/|/tmp/|/root/", text)
    assert not re.search(r'source = "\s*"', text)


@pytest.mark.parametrize("kernel", [*GEMMS, *ATTENTIONS], ids=lambda kernel: kernel.key)
def test_every_kernel_knows_its_file_source_and_version(kernel: GemmKernel | AttentionKernel) -> None:
    assert load_kernel(kernel.key) == kernel
    assert len(kernel.source) > 10
    assert kernel.versions


DISPATCH = [kernel for kernel in GEMMS if kernel.selection == "dispatch"]
SHAPES = [
    (64 * n + d, 64 * k)
    for n, k, d in itertools.product((1, 20, 64, 128, 129, 300, 512), (1, 63, 64, 100, 128, 300), (0, 64))
]


@pytest.mark.parametrize("kernel", DISPATCH, ids=lambda kernel: kernel.key)
def test_gemm_rows_leave_no_gap_along_the_token_rows(kernel: GemmKernel) -> None:
    # The ranges of M are disjoint or equal, and follow on from each other from the first row to the last.
    ranges = sorted({(row.min_rows, row.max_rows or np.inf) for row in kernel.rows})
    assert ranges[0][0] == kernel.min_rows
    assert ranges[-1][1] == (kernel.max_rows or np.inf)
    for (_, end), (start, _) in itertools.pairwise(ranges):
        assert start == end + 1


@pytest.mark.parametrize("kernel", DISPATCH, ids=lambda kernel: kernel.key)
def test_gemm_rows_cover_every_shape_and_none_is_dead(kernel: GemmKernel) -> None:
    rules = set()
    for out, depth in SHAPES:
        for rows in (1, 3, 8, 9, 16, 17, 32, 33, 48, 49, 63, 64, 65, 128, 129, 256, 257, 8191, 8192):
            row = gemm_row(kernel, H100, Gemm(out, depth), rows)
            assert row.in_range == (rows <= (kernel.max_rows or rows)), (kernel.key, out, depth, rows)
            rules.add(row.rule)
    assert rules == {row.label for row in kernel.rows}


def operators_for(kernel: AttentionKernel) -> list[Attention]:
    if kernel.latent:
        return [
            Attention(heads, 1, 576, 4096, batch, 512, True, latent=True)
            for heads in (4, 8, 16, 24, 32, 64, 128)
            for batch in (1, 17)
        ]
    head_dims = (
        (64, 96, 128, 192, 256) if max(row.max_head_dim or 999 for row in kernel.rows) <= 256 else (64, 128, 256, 512)
    )
    return [
        Attention(8 * group, 8, dim, 4096, batch, causal=causal, window=window)
        for group, dim, batch, causal, window in itertools.product(
            (1, 4, 8, 32, 128), head_dims, (1, 17), (True, False), (None, 1024)
        )
    ]


@pytest.mark.parametrize("kernel", ATTENTIONS, ids=lambda kernel: kernel.key)
def test_attention_rows_cover_what_they_claim_and_none_is_dead(kernel: AttentionKernel) -> None:
    labels = {row.label for row in kernel.rows}
    seen = set()
    for operator in operators_for(kernel):
        for positions in (1, 2, 3, 4, 8, 9, 17, 33, 65, 127, 128, 300):
            row = attention_row(kernel, H100, operator, positions)
            assert row.in_range == (kernel.max_positions is None or positions <= kernel.max_positions), (
                operator,
                positions,
            )
            seen.add(row.rule)
    assert seen == labels


@pytest.mark.parametrize("name", engine_names())
def test_engine_rows_point_at_kernels_that_serve_them(name: str) -> None:
    for row in load_engine(name).rows:
        kernel = load_kernel(row.kernel)
        library = load_library(row.kernel.partition(":")[0])
        assert set(row.architectures) <= set(library.architectures), row
        assert row.architectures
        if row.operator in ("gemm", "moe"):
            assert isinstance(kernel, GemmKernel if row.operator == "gemm" else MoEKernel)
            assert row.weight_dtypes
            assert set(row.weight_dtypes) <= set(kernel.weight_dtypes), row
        else:
            assert isinstance(kernel, AttentionKernel)
            assert kernel.latent == (row.operator == "mla")
            assert set(row.kv_dtypes) <= set(kernel.kv_dtypes), row


CHIPS = [load_hardware(name) for name in ("a100", "h100", "h200", "b200")]
RATES = {"bfloat16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}
FIRST_LINE = [(chip, dtype) for chip in CHIPS for dtype, rate in RATES.items() if rate in chip.peak_flop_per_s]


@pytest.mark.parametrize("backend", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(("chip", "dtype"), FIRST_LINE, ids=lambda value: getattr(value, "name", value))
def test_what_engines_run_by_default_on_a100_hopper_and_b200_is_covered(
    backend: str, chip: HardwareSpec, dtype: str
) -> None:
    assert default_row(chip, backend, Gemm(4096, 4096, dtype)) is not None
    assert default_row(chip, backend, FusedMoE(2048, 768, 128, 8, dtype)) is not None
    for causal in (True, False):
        assert default_row(chip, backend, Attention(32, 8, 128, 4096, causal=causal)) is not None
    latent = Attention(16, 1, 576, 4096, value_head_dim=512, shared_kv=True, latent=True)
    assert default_row(chip, backend, latent) is not None


def test_moe_selection() -> None:
    mixtral, deepseek = FusedMoE(4096, 14336, 8, 2), FusedMoE(7168, 2048, 256, 8, "fp8_block")
    spread = FusedMoE(7168, 2048, 256, 8, "fp8_block", expert_parallel=8)
    assert kernel_key(H100, "vllm", mixtral) == "triton_moe_vllm:default_16bit_int8"
    assert kernel_key(load_hardware("b200"), "vllm", mixtral) == "trtllm_gen_moe:untuned"
    assert kernel_key(H100, "sglang", deepseek) == "triton_moe_sglang:default_fp8_block"
    # DeepGEMM needs an all-to-all library, and none is the default: the published expert-parallel rows run Triton.
    assert kernel_key(H100, "sglang", spread) == "triton_moe_sglang:default_fp8_block"
    assert kernel_key(load_hardware("b200"), "sglang", deepseek) == "trtllm_gen_moe:untuned"
    assert kernel_key(H100, "trtllm", deepseek) == "trtllm_cutlass_moe:fp8_block"
    card = load_hardware("rtx_pro_6000_blackwell")
    assert kernel_key(card, "trtllm", mixtral) == "trtllm_cutlass_moe_sm80:autotuned_16bit"
    assert kernel_key(load_hardware("a100"), "trtllm", mixtral) == "trtllm_cutlass_moe_sm80:autotuned"
    assert kernel_key(card, "vllm", mixtral) == "trtllm_cutlass_moe_sm80:untuned"
    assert kernel_key(card, "vllm", FusedMoE(4096, 14336, 8, 2, "nvfp4")) == "trtllm_cutlass_moe_sm80:autotuned_fp4"
    assert select_moe(H100, "vllm", deepseek).name == "default_fp8_block"
    chip = H100.model_copy(update={"architecture": "sm999", "name": "new"})
    assert select_moe(chip, None, mixtral).menu == H100.default_tile.moe_rows
    assert kernel_key(chip, None, mixtral) == "new:default_tile"


def test_uncalibrated_is_the_first_engine_that_has_a_rule() -> None:
    assert select_gemm(H100, "uncalibrated", Gemm(4096, 4096)) == select_gemm(H100, None, Gemm(4096, 4096))
    assert select_attention(H100, None, Attention(32, 8, 128, 4096)).key == "fa3_sm90:decode_vllm"


class TestErrors:
    def test_unknown_kernel(self) -> None:
        with pytest.raises(
            UnknownNameError, match="unknown kernel of cublas_sm90 'tile_men'; did you mean 'tile_menu'"
        ):
            load_kernel("cublas_sm90:tile_men")

    def test_unknown_library(self) -> None:
        with pytest.raises(UnknownNameError, match="unknown kernels 'cublas_sm9'; did you mean 'cublas_sm90'"):
            load_kernel("cublas_sm9:tile_menu")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"weight_dtypes": ["bf61"]}, "unknown weight data type 'bf61'"),
            ({"rows": []}, "rows belong to selection 'dispatch', and it needs at least one"),
            ({"selection": "menu"}, "token_tiles and output_tiles belong to selection 'menu', and it needs both"),
            ({"source": ""}, "key 'gemm.0.source'"),
            ({"tile": 3}, "unknown key 'gemm.0.tile'"),
        ],
    )
    def test_a_faulty_kernel(self, change: dict[str, object], message: str) -> None:
        kernel = {
            "name": "k",
            "weight_dtypes": ["bfloat16"],
            "selection": "dispatch",
            "source": "a public place",
            "rows": [{"token_tile": 16, "output_tile": 64}],
        }
        data = {
            "name": "mine",
            "library": "mine",
            "architectures": ["sm90"],
            "versions": "1",
            "gemm": [{**kernel, **change}],
        }
        with pytest.raises(SpecError, match=re.escape(message)):
            KernelLibrary.from_mapping(data)

    def test_a_kernel_listed_twice(self) -> None:
        kernel = {"name": "k", "source": "a public place", "rows": [{"tile_rows": 16, "packing": "free"}]}
        data = {
            "name": "mine",
            "library": "mine",
            "architectures": ["sm90"],
            "versions": "1",
            "attention": [kernel, kernel],
        }
        with pytest.raises(SpecError, match="kernel 'k' is listed twice"):
            KernelLibrary.from_mapping(data)

    def test_an_unknown_cache_type(self) -> None:
        kernel = {
            "name": "k",
            "source": "a public place",
            "kv_dtypes": ["fp9"],
            "rows": [{"tile_rows": 16, "packing": "free"}],
        }
        data = {"name": "mine", "library": "mine", "architectures": ["sm90"], "versions": "1", "attention": [kernel]}
        with pytest.raises(SpecError, match="unknown cache data type 'fp9'"):
            KernelLibrary.from_mapping(data)


def test_a_users_library_needs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hardware_specs" / "kernels"
    folder.mkdir(parents=True)
    (folder / "mine_sm90.toml").write_text(
        'name = "mine_sm90"\nlibrary = "mine"\narchitectures = ["sm90"]\nversions = "1"\n'
        '[[gemm]]\nname = "exact"\nweight_dtypes = ["bfloat16"]\nselection = "dispatch"\nmax_rows = 16\nsource = "my notebook"\n'
        "rows = [{ max_rows = 16, token_tile = 0, output_tile = 2 }]\n"
    )
    monkeypatch.setenv("NFP_MODEL_SPECS", str(tmp_path))
    kernel = load_kernel("mine_sm90:exact")
    assert isinstance(kernel, GemmKernel)
    assert gemm_row(kernel, H100, Gemm(64, 64), 5).rule == "T <= 16: T x 2"
    assert not gemm_row(kernel, H100, Gemm(64, 64), 17).in_range
