"""Tuned fused-MoE files: names, folders and nearest keys as the engines treat them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nfp_model.errors import SpecError, UnsupportedError
from nfp_model.kernels.moe import moe_blocks, moe_row
from nfp_model.kernels.tuned_moe import find_tuned_file, read_tuned_file, tuned_file_name, with_tuned_files
from nfp_model.operators import FusedMoE
from nfp_model.specs.kernel_library import load_kernel
from nfp_model.specs.moe_kernel import MoEKernel
from nfp_model.specs.registry import load_hardware

H100 = load_hardware("h100")
QWEN = FusedMoE(2048, 768, 128, 8)


def default() -> MoEKernel:
    found = load_kernel("triton_moe_vllm:default_16bit_int8")
    assert isinstance(found, MoEKernel)
    return found


def write(path: Path, tiles: dict[int, tuple[int, int]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {str(key): {"BLOCK_SIZE_M": rows, "BLOCK_SIZE_N": columns} for key, (rows, columns) in tiles.items()}
    path.write_text(json.dumps({"triton_version": "3.5.0", **settings}))
    return path


@pytest.mark.parametrize(
    ("operator", "device", "name"),
    [
        (FusedMoE(4096, 14336, 8, 2), "NVIDIA H200", "E=8,N=14336,device_name=NVIDIA_H200.json"),
        (
            FusedMoE(7168, 2048, 256, 8, "fp8_block", tensor_parallel=8),
            "NVIDIA_B200",
            "E=256,N=256,device_name=NVIDIA_B200,dtype=fp8_w8a8,block_shape=[128,128].json",
        ),
        (
            FusedMoE(2048, 768, 128, 8, "int4", expert_parallel=4),
            "NVIDIA_H20",
            "E=32,N=768,device_name=NVIDIA_H20,dtype=int4_w4a16.json",
        ),
    ],
)
def test_file_names_follow_the_convention(operator: FusedMoE, device: str, name: str) -> None:
    # Names as they stand in vLLM's fused_moe/configs folder; experts and width are those of one rank.
    assert tuned_file_name(operator, device) == name


def test_nearest_key_and_ties_go_to_the_first_in_the_file(tmp_path: Path) -> None:
    tiles = {1: (16, 64), 128: (32, 128), 256: (64, 128)}
    path = write(tmp_path / tuned_file_name(QWEN, "NVIDIA_H100_80GB_HBM3"), tiles)
    tuned = with_tuned_files(default(), tmp_path, H100, QWEN)
    blocks = moe_blocks(tuned, H100, QWEN, np.array([1, 64, 65, 192, 193, 9000]))
    assert blocks.rows.tolist() == [16, 16, 32, 32, 64, 64]
    assert blocks.columns.tolist() == [64, 64, 128, 128, 128, 128]
    assert moe_row(tuned, H100, QWEN, 200).source == path.name
    write(path, dict(reversed(tiles.items())))
    tuned = with_tuned_files(default(), tmp_path, H100, QWEN)
    assert moe_blocks(tuned, H100, QWEN, np.array([192])).rows.tolist() == [64]


def test_a_folder_without_the_file_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / tuned_file_name(FusedMoE(4096, 14336, 8, 2), "NVIDIA_H100_80GB_HBM3"), {1: (128, 128)})
    assert with_tuned_files(default(), tmp_path, H100, QWEN) is not None
    assert with_tuned_files(default(), tmp_path, H100, QWEN) == default()


def test_sglang_folders_running_triton_first_then_the_newest(tmp_path: Path) -> None:
    name = tuned_file_name(QWEN, "NVIDIA_H100_80GB_HBM3")
    for version in ("triton_3_2_0", "triton_3_10_0", "triton_3_9_1"):
        write(tmp_path / version / name, {1: (16, 64)})
    device = "NVIDIA_H100_80GB_HBM3"
    newest, running = find_tuned_file(tmp_path, QWEN, device), find_tuned_file(tmp_path, QWEN, device, "3.2.0")
    assert newest is not None
    assert newest.parent.name == "triton_3_10_0"
    assert running is not None
    assert running.parent.name == "triton_3_2_0"


def test_a_single_file_is_used_whatever_device_it_names(tmp_path: Path) -> None:
    path = write(tmp_path / "E=128,N=768,device_name=Some_Card.json", {1: (8, 32)})
    assert moe_blocks(with_tuned_files(default(), path, H100, QWEN), H100, QWEN, np.array([5])).rows.tolist() == [8]


def test_a_user_file_wins_over_a_shipped_tuned_shape(tmp_path: Path) -> None:
    # H200 has a tuned digest for Mixtral: 16-row blocks at one token.
    h200, mixtral = load_hardware("h200"), FusedMoE(4096, 14336, 8, 2)
    write(tmp_path / tuned_file_name(mixtral, "NVIDIA_H200"), {1: (64, 64)})
    tuned = with_tuned_files(default(), tmp_path, h200, mixtral)
    assert moe_blocks(default(), h200, mixtral, np.array([1])).rows.tolist() == [16]
    assert moe_blocks(tuned, h200, mixtral, np.array([1])).rows.tolist() == [64]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such folder of tuned fused-MoE files"):
        with_tuned_files(default(), tmp_path / "absent", H100, QWEN)
    with pytest.raises(SpecError, match="not a tuned fused-MoE file name; expected E=<experts>"):
        read_tuned_file(write(tmp_path / "mine.json", {1: (16, 64)}))
    other = write(tmp_path / "E=64,N=768,device_name=X.json", {1: (16, 64)})
    with pytest.raises(SpecError, match=r"tuned for E=64, N=768, .*; the layer has E=128, N=768, bfloat16"):
        with_tuned_files(default(), other, H100, QWEN)
    other.write_text('{"1": {"BLOCK_SIZE_M": 16}}')
    with pytest.raises(SpecError, match="key '1' lacks BLOCK_SIZE_N"):
        read_tuned_file(other)
    other.write_text("[]")
    with pytest.raises(SpecError, match="not a JSON object of settings per token count"):
        read_tuned_file(other)
    other.write_text("{}")
    with pytest.raises(SpecError, match="no token counts among its keys"):
        read_tuned_file(other)
    with pytest.raises(UnsupportedError, match="no tuned fused-MoE files for nvfp4; they cover bfloat16"):
        tuned_file_name(FusedMoE(2048, 768, 128, 8, "nvfp4"), "NVIDIA_B200")
