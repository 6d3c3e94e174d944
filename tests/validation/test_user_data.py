"""A user's own files: read back equal, refused with the place named, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from nfp_model.errors import InvalidArgumentError
from nfp_model.validation.published import published_sets
from nfp_model.validation.records import Measurement
from nfp_model.validation.shapes import AllReduceShape, AttentionShape, ForwardShape, GemmShape, ModuleShape, MoEShape
from nfp_model.validation.user_data import read_records, write_records

HEADER = "operator,gpu,backend,weight_dtype,out_features,in_features,tokens,seconds,spread"
ROW = "gemm,my_gpu,torch,bf16,4096,4096,16,1.5e-5,0.01"

ONE_OF_EACH = [
    Measurement(
        "gemm",
        GemmShape(4096, 11008),
        "my_gpu",
        "torch",
        16,
        1.5e-5,
        0.01,
        "fp8_block",
        "bfloat16",
        timing="graph, 50 runs",
    ),
    Measurement(
        "moe",
        MoEShape(2048, 768, 128, 8, 2, 4, False, "power_law:1.2"),
        "my_gpu",
        "vllm",
        1,
        1e-4,
        None,
        "mxfp4",
        "fp8",
    ),
    Measurement("attention", AttentionShape(32, 8, 128, 4095, 2, 128), "my_gpu", "vllm", 3, 2e-5, kv_dtype="fp8"),
    Measurement("mla", AttentionShape(16, 1, 576, 4095), "my_gpu", "sglang", 8, 2e-5, kv_dtype="bfloat16"),
    Measurement("attention_module", ModuleShape("dsv4_csa", "a/b", 8, 4096, 2, 4, 4), "my_gpu", "vllm", 4, 2e-5),
    Measurement("all_reduce", AllReduceShape(8), "my_gpu", "nccl", 4096, 2e-5, library_version="2.29.2"),
    Measurement("forward", ForwardShape("mixtral", 2, 4096), "my_gpu", "vllm", 4, 2e-2, source='mine, of "today"'),
]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".json"])
class TestBothWays:
    def test_every_kind_comes_back_equal(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"mine{suffix}"
        write_records(path, ONE_OF_EACH, ["one card,", "clocks free\nand warm"])
        assert list(read_records(path)) == ONE_OF_EACH
        assert "clocks free" in path.read_text()

    def test_published_tables_come_back_equal(self, tmp_path: Path, suffix: str) -> None:
        points = [point for table in published_sets().values() for curve in table for point in curve.measurements()]
        write_records(tmp_path / f"all{suffix}", points)
        assert list(read_records(tmp_path / f"all{suffix}")) == points

    @given(seconds=st.floats(1e-9, 1e3), tokens=st.integers(1, 10**9))
    def test_numbers_survive_to_the_last_digit(
        self, tmp_path_factory: pytest.TempPathFactory, suffix: str, seconds: float, tokens: int
    ) -> None:
        path = tmp_path_factory.mktemp("digits") / f"one{suffix}"
        point = Measurement("gemm", GemmShape(8, 8), "g", "torch", tokens, seconds)
        write_records(path, [point])
        assert read_records(path) == (point,)

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write(tmp_path / f"mine{suffix}", "precious")

        def full_disk(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.replace", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_records(path, ONE_OF_EACH)
        assert path.read_text() == "precious\n"
        assert list(tmp_path.iterdir()) == [path]


class TestCsvErrors:
    def test_comments_and_blank_lines_count_as_lines(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.csv", "# H100, driver 580", "", HEADER, ROW, "# a pause", ROW.replace("16,", "x,"))
        with pytest.raises(InvalidArgumentError, match=r"t\.csv, line 6, column 'tokens': 'x' is not a whole number$"):
            read_records(path)

    @pytest.mark.parametrize(
        ("header", "row", "message"),
        [
            (HEADER, ROW.replace("1.5e-5", "15 us"), r"line 2, column 'seconds': '15 us' is not a number$"),
            (HEADER, ROW.replace("1.5e-5", "-1"), r"line 2: seconds must be a finite number above 0, got -1\.0$"),
            (HEADER, ROW.replace("1.5e-5", ""), r"line 2, column 'seconds': empty$"),
            (
                HEADER,
                ROW.replace("gemm", "gem"),
                r"line 2, column 'operator': unknown operator 'gem'; did you mean 'gemm'\?$",
            ),
            (HEADER, ROW.replace("4096,4096", "4096,"), r"line 2, column 'in_features': empty, gemm needs it$"),
            (HEADER, ROW.replace("bf16", "bf61"), r"line 2: unknown data type 'bf61'; did you mean 'bf16'"),
            (HEADER, ROW + ",1", r"line 2: 10 cells, the header has 9$"),
            (HEADER, ROW.replace("torch", "pytorch"), r"line 2: unknown backend 'pytorch'; did you mean 'torch'\?$"),
            (HEADER.replace("seconds", "second"), ROW, r"line 1: unknown column 'second'; did you mean 'seconds'\?$"),
            (HEADER.replace("gpu,", ""), ROW, r"line 1: column 'gpu' is missing$"),
            (HEADER.replace("spread", "tokens"), ROW, r"line 1: column 'tokens' is there twice$"),
            (
                HEADER.replace("spread", "top_k"),
                ROW,
                r"line 2, column 'top_k': gemm has none; it has out_features, in_features$",
            ),
            (
                HEADER.replace("spread", "window"),
                ROW.replace("0.01", "0"),
                r"column 'window': gemm has none; it has out_features",
            ),
        ],
    )
    def test_name_the_place(self, tmp_path: Path, header: str, row: str, message: str) -> None:
        with pytest.raises(InvalidArgumentError, match=r"^\S+bad\.csv, .*" + message.removeprefix("^")):
            read_records(write(tmp_path / "bad.csv", header, row))

    def test_truth_values(self, tmp_path: Path) -> None:
        header = "operator,gpu,backend,hidden_size,intermediate_size,num_experts,top_k,gated,tokens,seconds"
        row = "moe,g,vllm,2048,768,128,8,{},1,1e-4"
        (point,) = read_records(write(tmp_path / "moe.csv", header, row.format("False")))
        assert isinstance(point.shape, MoEShape)
        assert point.shape.gated is False
        with pytest.raises(InvalidArgumentError, match="line 2, column 'gated': 'maybe' is not true or false"):
            read_records(write(tmp_path / "moe.csv", header, row.format("maybe")))

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgumentError, match=r"absent\.csv: cannot be read \(No such file or directory\)"):
            read_records(tmp_path / "absent.csv")
        with pytest.raises(InvalidArgumentError, match="no header line"):
            read_records(write(tmp_path / "empty.csv", "# nothing"))
        with pytest.raises(InvalidArgumentError, match="no timings in it"):
            read_records(write(tmp_path / "header.csv", HEADER))
        with pytest.raises(InvalidArgumentError, match=r"read from \.csv or \.json, not '\.xlsx'"):
            read_records(tmp_path / "book.xlsx")
        (tmp_path / "latin.csv").write_bytes(b"operator,gpu\xe9")
        with pytest.raises(InvalidArgumentError, match=r"not UTF-8 text \(byte 12\)"):
            read_records(tmp_path / "latin.csv")


class TestJsonErrors:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{\n\n nope}", r"t\.json, line 3: not valid JSON"),
            ("[]", "needs an object with a list 'measurements'"),
            ('{"measurements": [1]}', "entry 1: must be an object, got 1"),
            ('{"measurements": [{"operater": "gemm"}]}', "entry 1: unknown column 'operater'; did you mean 'operator'"),
            ('{"measurements": [{"operator": "gemm"}]}', "entry 1, column 'gpu': empty"),
        ],
    )
    def test_name_the_place(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(InvalidArgumentError, match=message):
            read_records(write(tmp_path / "t.json", text))

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("tokens", 1.5, "entry 2, column 'tokens': 1.5 is not a whole number"),
            ("tokens", True, "entry 2, column 'tokens': True is not a whole number"),
            ("gpu", 7, "entry 2, column 'gpu': 7 is not text"),
        ],
    )
    def test_types_are_strict(self, tmp_path: Path, key: str, value: object, message: str) -> None:
        good = {
            "operator": "gemm",
            "gpu": "g",
            "backend": "torch",
            "out_features": 8,
            "in_features": 8,
            "tokens": 1,
            "seconds": 1.0,
        }
        text = json.dumps({"measurements": [good, {**good, key: value}]})
        with pytest.raises(InvalidArgumentError, match=message):
            read_records(write(tmp_path / "t.json", text))


def test_writing_refuses(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no timings to write"):
        write_records(tmp_path / "t.csv", [])
    with pytest.raises(InvalidArgumentError, match=r"written to \.csv or \.json, not '\.txt'"):
        write_records(tmp_path / "t.txt", ONE_OF_EACH)
    assert list(tmp_path.iterdir()) == []
