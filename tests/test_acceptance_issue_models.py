"""The settings users come with: each an explained prediction or a refusal of one line."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nfp_model import from_hf_config, load_hardware, predict_nfp
from nfp_model.errors import UnsupportedError
from nfp_model.operators import FusedMoE, Gemm
from nfp_model.specs.model import LatentAttention, MoEFFN

QWEN3_235B_FP8: dict[str, Any] = {
    "model_type": "qwen3_moe", "hidden_size": 4096, "num_hidden_layers": 94, "num_attention_heads": 64,
    "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1536,
    "intermediate_size": 12288, "vocab_size": 151936, "max_position_embeddings": 40960, "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"},
}  # fmt: skip
"""As the fields of Qwen/Qwen3-235B-A22B-FP8 read; the real file is compared below."""

FITTING: list[tuple[str, str, str | dict[str, Any], dict[str, Any], int]] = [
    ("DeepSeek-V3 on 8 x H200, expert parallel", "h200", "deepseek-v3", {"expert_parallel": 8, "batch_size": 8}, 8),
    ("DeepSeek-V3 on 8 x H200, both", "h200", "deepseek-v3", {"expert_parallel": 8, "tensor_parallel": 8}, 8),
    ("Qwen3-235B-A22B fp8 on 4 x B200", "b200", QWEN3_235B_FP8, {"tensor_parallel": 4}, 4),
    ("gpt-oss-120b mxfp4 on one H100", "h100", "gpt-oss-120b", {}, 1),
    ("Llama-3.1-405B fp8 on 8 x H100", "h100", "llama-3.1-405b", {"weight_dtype": "fp8", "tensor_parallel": 8}, 8),
    (
        "LLaDA2.0-flash in block mode on 4 x H100", "h100", "llada2-0-flash",
        {"decode_mode": "block", "tensor_parallel": 4, "expert_parallel": 4}, 4,
    ),
    ("Mixtral on one MI300X", "mi300x", "mixtral", {}, 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("hardware", "model", "arguments", "ranks"), [row[1:] for row in FITTING], ids=[row[0] for row in FITTING]
)
def test_prints_an_explained_prediction(
    hardware: str, model: str | dict[str, Any], arguments: dict[str, Any], ranks: int
) -> None:
    spec = from_hf_config(model, name="given") if isinstance(model, dict) else model
    p = predict_nfp(hardware, spec, max_positions=256, **arguments)
    assert p.fits_memory
    assert p.workload.ranks == ranks
    assert 1 <= p.nfp <= 256
    assert p.idle_compute_nfp > 1
    text = str(p.explain())
    for piece in (p.binding, "rules and sources", "slack: memory"):
        assert piece in text
    assert p.model.title in str(p)
    assert p.hardware.title in str(p)
    # Every expert weight of the model lies on some rank.
    experts = [use for use in p.forward.uses if isinstance(use.operator, FusedMoE)]
    stated = [ffn for ffn in p.model.ffn.values() if isinstance(ffn, MoEFFN)]
    assert bool(experts) == bool(stated)
    for use in experts:
        op = use.operator
        assert isinstance(op, FusedMoE)
        assert op.local_experts * op.expert_parallel == stated[0].num_experts
        assert op.local_width * op.tensor_parallel == stated[0].intermediate_size
    if stated:
        # From one position every further one touches further experts (source paper: MoE relative to one token).
        assert p.saturated is None or p.saturated.nfp > p.nfp
    else:
        assert p.nfp > 8


def test_block_diffusion_attends_both_ways() -> None:
    p = predict_nfp(
        "h100", "llada2-0-flash", decode_mode="block", tensor_parallel=4, expert_parallel=4, max_positions=64
    )
    assert p.model.diffusion is not None
    assert p.model.diffusion.block_size == 32
    assert not any("not a diffusion model" in warning for warning in p.warnings)
    # A block of 32 is dearer than one position: 163 instead of 8 of 256 experts (published-value table of E(1-(1-k/E)^t)).
    assert p.latency_s(32)[0] > 2 * p.baseline_latency_s


def test_a_refusal_is_one_line_and_names_what_would_do() -> None:
    spec = from_hf_config(QWEN3_235B_FP8, name="given")
    with pytest.raises(UnsupportedError) as told:
        predict_nfp("b200", spec, tensor_parallel=8)
    assert str(told.value) == (
        "given: the expert width is 192 on each of 8 ranks, no multiple of the 128 of its fp8_block weights"
    )
    assert predict_nfp("b200", spec, tensor_parallel=8, expert_parallel=8, max_positions=8).fits_memory


def test_a_config_file_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(QWEN3_235B_FP8), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "nfp_model",
        "predict",
        "b200",
        str(path),
        "--tp",
        "4",
        "--max-positions",
        "64",
        "--explain",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "binding" in done.stdout
    # The DeepGEMM kernels run block fp8 only.
    assert "deepgemm" in done.stdout


# The package's configurations -------------------------------------------------------------------------------------------------


def configurations() -> Path:
    found = importlib.util.find_spec("aiconfigurator_core")
    if found is None or not found.submodule_search_locations:
        pytest.skip("aiconfigurator-core is not installed (pip install 'nfp-model[silicon]')")
    return Path(found.submodule_search_locations[0]) / "model_configs"


@pytest.mark.silicon
def test_the_stated_fields_are_those_of_the_real_file() -> None:
    real = json.loads((configurations() / "Qwen--Qwen3-235B-A22B-FP8_config.json").read_text(encoding="utf-8"))
    for field, value in QWEN3_235B_FP8.items():
        if field != "quantization_config":
            assert real[field] == value, field
    assert real["quantization_config"]["weight_block_size"] == [128, 128]


@pytest.mark.silicon
def test_a_folder_prints_one_table() -> None:
    """``nfp predict h200 FOLDER`` over every configuration: at least 85 % predict, each refusal says what is missing."""
    folder = configurations()
    files = [path for path in folder.glob("*_config.json") if "_hf_quant_" not in path.name]
    command = [sys.executable, "-m", "nfp_model", "predict", "h200", str(folder), "--max-positions", "32", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == len(files)
    refused = {row["model"]: row["refused"] for row in rows if "refused" in row}
    assert len(rows) - len(refused) >= 0.85 * len(rows)
    # DeepSeek-V4, MiniMax-M3 and Kimi-K3 ask for parts a model spec cannot state; nothing is refused for a data type.
    assert {re.split(r"[-_]", name.split("--")[1])[0] for name in refused} == {"DeepSeek", "MiniMax", "Kimi"}
    for reason in refused.values():
        assert "this architecture needs" in reason
        assert "\n" not in reason
    for row in rows:
        if "refused" not in row:
            assert row["baseline_latency_s"] > 0
            assert 1 <= row["nfp"] <= 32
            assert row["binding"]


@pytest.mark.silicon
@pytest.mark.parametrize("chip", ["h200", "b200"])
def test_nvfp4_checkpoints_run_by_pipe_or_by_expansion(chip: str) -> None:
    hardware = load_hardware(chip)
    path = configurations() / "nvidia--DeepSeek-V3.1-NVFP4_config.json"
    p = predict_nfp(chip, path, tensor_parallel=8, max_positions=8)
    formats = {
        use.name: use.operator.weight_dtype for use in p.forward.uses if isinstance(use.operator, Gemm | FusedMoE)
    }
    assert isinstance(next(iter(p.model.attention.values())), LatentAttention)
    # Its file leaves the low-rank projections of attention in bf16 and packs o_proj and the experts.
    assert (formats["q_b_proj"], formats["o_proj"], formats["experts"]) == ("bfloat16", "nvfp4", "nvfp4")
    assert hardware.matrix_rate_key("nvfp4") == {"h200": "bfloat16", "b200": "fp4"}[chip]
    assert any("weight-only: nvfp4" in warning for warning in p.warnings) == (chip == "h200")


@pytest.mark.silicon
def test_latent_experts_of_a_real_file() -> None:
    p = predict_nfp(
        "b200",
        configurations() / "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8_config.json",
        tensor_parallel=2,
        max_positions=8,
    )
    uses = {use.name: use.operator for use in p.forward.uses}
    experts, down = uses["experts"], uses["latent_down_proj"]
    assert isinstance(experts, FusedMoE)
    assert isinstance(down, Gemm)
    assert (experts.hidden_size, experts.intermediate_size, experts.num_experts, experts.gated) == (
        1024,
        2688,
        512,
        False,
    )
    assert (down.out_features, down.in_features, down.weight_dtype) == (1024, 4096, "fp8")
    assert p.model.total_parameters == pytest.approx(120e9, rel=0.03)
    assert p.model.active_parameters == pytest.approx(12e9, rel=0.07)  # the name rounds; the embedding is 0.5e9 of it
