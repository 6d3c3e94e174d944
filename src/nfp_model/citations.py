"""Citation keys and the public references behind them, so that a prediction can say what it rests on.

Source strings of spec, kernel and calibration files are free text; each reference knows the marks by which such a text names
it. Pure: nothing is read, nothing is imported from the rest of the package.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ARXIV = "https://arxiv.org/abs/"
GITHUB = "https://github.com/"


@dataclass(frozen=True)
class Citation:
    """One public reference.

    Attributes
    ----------
    key : str
        Name used in the documentation, ``#cite-<key>``.
    title : str
        What it is.
    place : str
        Where it stands: arXiv number, document number, repository.
    use : str
        What this library takes from it.
    marks : tuple of str
        Texts by which a source string names it.
    url : str
        Address; empty where a document has no stable one.
    """

    key: str
    title: str
    place: str
    use: str
    marks: tuple[str, ...]
    url: str = ""

    def __str__(self) -> str:
        return f"{self.title}, {self.place}" if self.place else self.title


def _paper(key: str, title: str, number: str, use: str, *marks: str) -> Citation:
    return Citation(key, title, f"arXiv {number}", use, (number, *marks), ARXIV + number)


def _code(key: str, title: str, repository: str, use: str, *marks: str) -> Citation:
    return Citation(key, title, repository, use, (repository, *marks), GITHUB + repository)


_THEORY = (
    _paper("nfp", "Near-Free Parallelism of decode forwards", "2605.30851",
        "the quantity itself, the idle-compute estimate, 2.4x to 23x"),
    _paper("moesd", "MoESD: Unveil Speculative Decoding's Potential for Accelerating Sparse MoE", "2505.19645",
        "experts touched (equation 8), target efficiency", "MoESD"),
    Citation("roofline", "Roofline: An Insightful Visual Performance Model for Multicore Architectures",
        "CACM 52(4), 2009", "ridge point", ("CACM 52(4)",), "https://doi.org/10.1145/1498765.1498785"),
    Citation("matmul_guide", "NVIDIA, Matrix Multiplication Background User's Guide", "DU-09799-001",
        "tile and wave quantisation (sections 3.1, 3.2)", ("DU-09799-001",),
        "https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/"),
    Citation("si", "The International System of Units (SI brochure), 9th edition", "BIPM, 2019", "prefixes",
        ("SI brochure",), "https://www.bipm.org/en/publications/si-brochure"),
    Citation("ocp_formats", "OCP 8-bit floating point and Microscaling formats", "Open Compute Project",
        "storage formats and their scale bytes", ("OCP FP8", "OCP MX")),
)  # fmt: skip

_SPECULATION = (
    _paper("speculative_decoding", "Fast Inference from Transformers via Speculative Decoding", "2211.17192",
        "expected tokens of a chain of drafts"),
    _paper("medusa", "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads",
        "2401.10774", "expected tokens of a tree of head guesses"),
    _paper("sequoia", "Sequoia: Scalable, Robust, and Hardware-aware Speculative Decoding", "2402.12374",
        "trees under positional acceptance"),
    _paper("magicdec",
        "MagicDec: Breaking the Latency-Throughput Tradeoff for Long Context Generation with Speculative Decoding",
        "2408.11049", "effect of the context on speculation"),
    _paper("eagle3", "EAGLE-3: Scaling up Inference Acceleration of Large Language Models via Training-Time Test",
        "2503.01840", "published speed-ups by batch"),
    _paper("llada2", "LLaDA2.0: Scaling Up Diffusion Language Models to 100B", "2512.15745",
        "tokens per forward of block diffusion"),
)  # fmt: skip

_ENGINES = (
    _code("vllm", "vLLM", "vllm-project/vllm", "default kernels, block rules, captured graphs", "vLLM", "vllm/"),
    _code("sglang", "SGLang", "sgl-project/sglang", "default kernels, block rules, captured graphs", "SGLang"),
    _code("tensorrt_llm", "TensorRT-LLM", "NVIDIA/TensorRT-LLM",
        "default kernels, XQA and CUTLASS rules, captured graphs", "TensorRT-LLM", "tensorrt_llm"),
    _code("pytorch", "PyTorch", "pytorch/pytorch", "FlexAttention tiles; what torch calls", "torch.nn",
        "torch._scaled_mm", "torch/_inductor"),
    _code("transformers", "Hugging Face Transformers", "huggingface/transformers", "configuration classes",
        "Hugging Face transformers"),
)  # fmt: skip

_KERNELS = (
    _code("flash_attention", "FlashAttention 2, 3 and 4", "Dao-AILab/flash-attention",
        "query tiles, packing, KV splits", "flash-attention", "FlashAttention"),
    _code("flashinfer", "FlashInfer", "flashinfer-ai/flashinfer",
        "query tiles, KV splits, TRT-LLM-gen tile costs and block rule", "flashinfer", "FlashInfer"),
    _code("flashmla", "FlashMLA", "deepseek-ai/FlashMLA", "MLA decode tiles", "FlashMLA"),
    _code("deepgemm", "DeepGEMM", "deepseek-ai/DeepGEMM", "block scoring on sm90 and sm100, byte convention",
        "DeepGEMM"),
    _code("marlin", "Marlin", "IST-DASLab/marlin", "striped partitioning, 4-bit byte count", "Marlin README"),
    _code("triton", "Triton and its kernels", "triton-lang/triton", "gpt-oss expert blocks", "triton_kernels"),
    _code("cublas", "cuBLASLt kernel names and nvmath-python", "NVIDIA/nvmath-python", "tile menu of cuBLAS",
        "nvmath-python", "cuBLASLt", "cuBLAS"),
    Citation("traces", "Public profiler traces of serving engines", "",
        "tiles seen at decode where no source is public", ("public profiler trace",)),
)  # fmt: skip

_DATA = (
    _code("aiconfigurator", "aiconfigurator-core", "ai-dynamo/aiconfigurator",
        "measured kernel timings, model configurations, constants of element-wise work and collectives",
        "aiconfigurator", "ai-dynamo/aic"),
    _paper("deepseek_v3", "DeepSeek-V3 Technical Report", "2412.19437", "architecture, block-scaled fp8",
        "DeepSeek-V3:"),
    _paper("deepseek_hardware",
        "Insights into DeepSeek-V3: Scaling Challenges and Reflections on Hardware for AI Architectures",
        "2505.09343", "communication on Hopper"),
    _paper("deepseek_v2", "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model",
        "2405.04434", "architecture"),
    _paper("mixtral", "Mixtral of Experts", "2401.04088", "parameter counts"),
    _paper("mistral_7b", "Mistral 7B", "2310.06825", "parameter counts"),
    _paper("olmoe", "OLMoE: Open Mixture-of-Experts Language Models", "2409.02060", "parameter counts"),
    _paper("gemma3", "Gemma 3 Technical Report", "2503.19786", "parameter counts, window pattern"),
    _paper("glm45", "GLM-4.5: Agentic, Reasoning, and Coding (ARC) Foundation Models", "2508.06471",
        "parameter counts"),
    _paper("gpt_oss", "gpt-oss-120b & gpt-oss-20b Model Card", "2508.10925", "parameter counts, mxfp4 experts"),
    _paper("llada_moe", "LLaDA-MoE: A Sparse MoE Diffusion Language Model", "2509.24389", "parameter counts"),
    _code("litgpt", "LitGPT", "Lightning-AI/litgpt", "restated configurations"),
    Citation("model_pages", "Configurations, model cards and announcements of the model makers", "Hugging Face Hub",
        "architectures and published parameter counts", ("Hugging Face config", "model card", "hub file",
        "on the Hugging Face page", "announcement", "the model's name", "LLaDAConfig", "public descriptions of",
        "shapes of")),
)  # fmt: skip

_HARDWARE = (
    Citation("nvidia_papers", "NVIDIA datasheets and architecture whitepapers", "the product's own",
        "bandwidth, peaks, SM counts, caches, links", ("NVIDIA ", "the whitepaper's", "NVLink", "HGX")),
    Citation("ptx", "PTX ISA", "NVIDIA", "matrix-instruction shapes", ("PTX ISA",),
        "https://docs.nvidia.com/cuda/parallel-thread-execution/"),
    _code("cccl", "CUDA Core Compute Libraries, arch_traits.h", "NVIDIA/cccl", "per-SM limits by compute capability"),
    Citation("drivers", "Driver readings in public listings", "nvidia-smi, rocm-smi", "usable memory, L2 size",
        ("nvidia-smi", "rocm-smi", "CUDA driver", "driver value")),
    Citation("amd_papers", "AMD Instinct datasheets, CDNA whitepapers and ISA guides", "the product's own",
        "bandwidth, peaks, matrix instructions", ("AMD ", "MFMA", "AMD's ISSCC")),
    Citation("tpu_docs", "Google Cloud TPU documentation", "Google", "peaks, bandwidth, array sizes",
        ("Google Cloud TPU",), "https://cloud.google.com/tpu/docs"),
    Citation("scaling_book", "How to Scale Your Model", "jax-ml scaling book", "TPU clock",
        ("How to Scale Your Model",), "https://jax-ml.github.io/scaling-book/"),
    Citation("tpu_generations", "Tensor Processing Unit, table of generations", "Wikipedia", "clock of TPU v5p",
        ("Wikipedia, Tensor",), "https://en.wikipedia.org/wiki/Tensor_Processing_Unit"),
)  # fmt: skip

CITATIONS: dict[str, Citation] = {
    citation.key: citation for citation in (*_THEORY, *_SPECULATION, *_ENGINES, *_KERNELS, *_DATA, *_HARDWARE)
}
"""Every reference, by key, in the order of the bibliography."""

EQUATION_CITATIONS: dict[str, tuple[str, ...]] = {
    "gemm": ("matmul_guide",),
    "moe": ("moesd",),
    "attention": ("flashinfer",),
    "block": ("aiconfigurator",),
    "stream": ("aiconfigurator",),
    "collective": ("vllm",),
}
"""References behind the form of each latency equation, by equation kind (see ``nfp_model.cost.equations``)."""


def citations_in(source: str) -> tuple[Citation, ...]:
    """References a source string names.

    Parameters
    ----------
    source : str
        ``source`` of a spec, kernel row or fit.

    Returns
    -------
    tuple of Citation
        In the order of the bibliography; empty where none is known.

    Examples
    --------
    >>> [c.key for c in citations_in("vLLM 0.33.0 vllm/model_executor/layers/fused_moe/fused_moe.py, get_default_config")]
    ['vllm']
    """
    return tuple(citation for citation in CITATIONS.values() if any(mark in source for mark in citation.marks))


def gathered_citations(equations: Iterable[str], sources: Iterable[str]) -> tuple[Citation, ...]:
    """What one prediction rests on: the quantity, the equations evaluated, and every source its rules and constants name.

    Parameters
    ----------
    equations : iterable of str
        Kinds of the equations used: ``gemm``, ``moe``, ``attention``, ``stream``.
    sources : iterable of str
        Sources of the kernel rows that decided, of the constants and of the two specs.

    Returns
    -------
    tuple of Citation
        Each once, in the order of the bibliography.

    Raises
    ------
    KeyError
        For a kind that is no equation.

    Examples
    --------
    >>> [c.key for c in gathered_citations(["gemm"], ["deepseek-ai/DeepGEMM, csrc/jit_kernels/heuristics/sm90.hpp"])]
    ['nfp', 'matmul_guide', 'deepgemm']
    """
    keys = {"nfp"}
    for kind in equations:
        keys.update(EQUATION_CITATIONS[kind])
    for source in sources:
        keys.update(citation.key for citation in citations_in(source))
    return tuple(citation for key, citation in CITATIONS.items() if key in keys)


__all__ = ["CITATIONS", "EQUATION_CITATIONS", "Citation", "citations_in", "gathered_citations"]
