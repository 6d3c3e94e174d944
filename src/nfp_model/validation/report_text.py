"""Words of the validation page that do not depend on a score."""

from __future__ import annotations

HEAD = """# Validation

This page is written by

```
{command}
```

on {source}, {date}: {curves} curves with {points} judged points of the {half} half of the fixed split, {seconds:.0f} s.{quick}
Nothing on it is typed by hand but the titles of readings of the worst curves, and the same numbers stand in `validation/scores.json`.
"""

METHOD = """## How it is scored

- **Data**: NVIDIA's published kernel timings (PyPI package `aiconfigurator-core`, Apache-2.0). CUDA graph, six replays, mean, clocks
  free, no L2 flush. Activation quantisation is inside every quantised GEMM.
- **Split**: a shape is in the fit half if the first 8 hexadecimal digits of the SHA-256 of its key (`gemm|n|k`,
  `moe|hidden|inter|topk|experts|ep`, `attention|heads|kv_heads|head_dim|window`) are an even integer, else in the test half. Fits see
  the fit half only; at most 6 fitted numbers per GPU, backend, operator and data type, 7 for attention. Of rows with more than {most}
  curves (parallel MoE, attention) the first {most} by the hash of the shape are scored.
- **MAPE** of a curve: mean |predicted / measured - 1|; the row shows the median over its curves. GEMM and MoE up to 1024 rows. Shape
  MAPE: after both curves are divided by their first point.
- **NFP error**: median/p90 over curves of |log2(NFP predicted / measured)|, last crossing, on the measured token counts up to 4096,
  tolerance 0.2 unless said. A curve that never leaves the tolerance is censored: both censored is agreement; where only one is, the end
  of the range stands for its boundary and the error counted is a lower bound. Idle compute is judged on the same token counts.
- **Baselines**: 16 rows for GEMM (past the special kernels for a few rows), every expert touched (M k >= 4 E) for MoE, 1 elsewhere.
- A row counts as **met** when MAPE and boundary both are; a curve the model refuses counts as missed. Where the table records points
  twice, the noise between the recordings is shown by the same statistics, and where it is larger than a goal the goal is 1.2 times it.
- **Numbers in rule files**: beside the fitted constants, kernel files hold numbers inferred on the fit half for a kernel on all GPUs
  that run it (bytes of quantising passes, shares of re-reads, residency, starts by rows, idle rows); each is marked inferred and says
  what it rests on.
- **L2 replays**: decode-attention timings replay one cache. Two to four numbers a GPU generation, one set for MLA and one for the rest,
  beside the fitted constants (`REPLAYS` and `LATENT_REPLAYS` in `validation/fit_points.py`), say how much faster a cache inside L2 is
  read again; they are used where such points are fitted and scored, and in no prediction. Rows "KV beyond L2" do not depend on them.
- **Band**: share of points whose time is inside the 80 % band of T, and, in the section on bands, of curves whose measured boundary is
  inside that of NFP. Boundaries stand on tile edges, so where most are met exactly any band covers more than 80 %.
- **Uncalibrated** rows use the constants fitted without the GPU's generation, with the backend's kernel rules; **sibling**
  rows those of another GPU of the generation.
"""

OWN = """\
```{include} validation/own.md
:relative-images:
```
"""

PAPER = """The source paper (arXiv 2605.30851) reports that idle compute over-predicts by 2.4x to 23x. Its tolerance, its baseline and its
hardware are not public here, so no row below is a reproduction of its table: tolerance and baseline are swept, and the ratio is shown for
every curve whose measured boundary lies inside the timed range. Idle compute here is the definition of this library: the largest N whose
FLOP at peak rate fit in the time the baseline's weights take at peak bandwidth. The figure shows where 2.4x and 23x lie in the measured
distributions, and the same ratio for this model. Attention has no panel: the published tables time it at one query position, except the
DeepSeek-V4 blocks named below.
"""

EXCLUSIONS = """Rows of the tables, both halves, left out before anything is fitted or scored. The filters are named and counted;
`keep` of the loaders brings them back.
"""

KNOWN_FAULTS = """Left in, and part of the errors above: TensorRT-LLM MoE power-law rows have spikes; L40S TensorRT-LLM bf16 scatters by
14 % at small M; balanced MoE rows of group-routed models do not touch every expert, other than those counted above as `group_routed`.
All-reduce is scored by percentage error alone.
Attention over several query positions against a long cache is published only for the DeepSeek-V4 blocks over a compressed cache
(`dsv4_csa`, `dsv4_hca`), which are projections, indexer, compressed attention and output in one number and are predicted as such. The
`mla` module is timed without any cached token; `dsa` and `msa` have at most 128 cached tokens but for SGLang's, which are timed
without a graph (see the exclusions).
"""
