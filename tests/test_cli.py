"""The command line prints what the library computes, and tells errors in one line with exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nfp_model import predict_nfp


def nfp(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nfp_model", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def test_predict_json_carries_the_library_numbers() -> None:
    done = nfp("predict", "h100", "mixtral", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(predict_nfp("h100", "mixtral").to_dict()))


def test_predict_prints_both_baselines_and_the_module_table() -> None:
    prediction = predict_nfp("h100", "mixtral")
    text = nfp("predict", "h100", "mixtral").stdout
    assert text.strip() == str(prediction)
    assert prediction.saturated is not None
    for piece in (
        "1 position",
        f"saturated ({prediction.saturated.baseline})",
        "idle-compute",
        "over-prediction",
        "moe_ffn",
        "binding",
    ):
        assert piece in text


def test_explain_names_kernel_rows_and_sources() -> None:
    text = nfp("predict", "h100", "mixtral", "--backend", "vllm", "--explain").stdout
    for piece in ("rules and sources", "slack: memory", "fa3_sm90", "cublas_sm90"):
        assert piece in text


def test_curve_is_in_json() -> None:
    data = json.loads(nfp("predict", "h100", "llama-3.1-8b", "--json", "--curve", "--max-positions", "64").stdout)
    assert data["curve"]["positions"][0] == 1
    assert len(data["curve"]["positions"]) == len(data["curve"]["seconds"])


def test_several_models_print_one_table_with_refusals() -> None:
    done = nfp("predict", "tpu_v5e", "llama-3.1-8b", "deepseek_v3", "--max-positions", "64")
    assert done.returncode == 0, done.stderr
    assert "1 predicted, 1 refused" in done.stdout
    assert "has no matrix rate for fp8_block" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "h10", "mixtral"), "unknown hardware 'h10'; did you mean 'h100'"),
        (("predict", "h100", "mixtrl"), "unknown model 'mixtrl'; did you mean 'mixtral'"),
        (("predict", "h100", "mixtral", "--tolerance", "0"), "tolerance must be a finite number above 0"),
        (
            ("predict", "h100", "mixtral", "--baseline", "many"),
            "baseline must be a whole number or 'saturated', got 'many'",
        ),
        (("predict", "h100", "mixtral", "--backend", "vlm"), "unknown backend 'vlm'; did you mean 'vllm'"),
        (("predict", "h100", "mixtral", "--nonsense"), "No such option: --nonsense"),
        (("predict", "h100", "mixtral", "--strict-memory"), "needs 93.9 GB per GPU"),
        (("specs", "show", "h1000"), "unknown spec 'h1000'"),
        (("predict", "nowhere.toml", "mixtral"), "nowhere.toml: no such file"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    done = nfp(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("nfp: ")
    assert message in done.stderr


def test_specs_list_and_show() -> None:
    listed = json.loads(nfp("specs", "list", "--json").stdout)
    assert "h100_sxm5" in listed["hardware"]
    assert "mixtral_8x7b" in listed["model"]
    shown = nfp("specs", "show", "h100").stdout
    assert "sm_count = 132" in shown
    assert "sources:" in shown
    file = Path(__file__).parents[1] / "model_specs/mixtral_8x7b.toml"
    assert "num_layers = 32" in nfp("specs", "show", str(file)).stdout


def test_user_folder_adds_specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(__file__).parents[1].joinpath("model_specs/llama_3_1_8b.toml").read_text()
    folder = tmp_path / "model_specs"
    folder.mkdir()
    (folder / "my_llama.toml").write_text(text.replace('"llama_3_1_8b"', '"my_llama"', 1))
    monkeypatch.setenv("NFP_MODEL_SPECS", str(tmp_path))
    assert predict_nfp("h100", "my_llama", max_positions=8).model.name == "my_llama"
    monkeypatch.setenv("NFP_MODEL_SPECS", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match=r"NFP_MODEL_SPECS is '.*missing', which is not a folder"):
        predict_nfp("h100", "my_llama")
