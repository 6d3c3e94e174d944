"""The page "granularity by kernel", from ``hardware_specs/kernels/*.toml``: every kernel, its rows in words, sources, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from page_markup import anchor, code, codes, table, target, text

from nfp_model.kernels.capture import captured_sizes
from nfp_model.specs.attention_kernel import AttentionKernel, AttentionRow
from nfp_model.specs.gemm_kernel import GemmKernel, GemmRow
from nfp_model.specs.kernel_library import (
    CaptureSizes,
    DefaultRow,
    EngineDefaults,
    Kernel,
    KernelLibrary,
    all_libraries,
    engine_names,
    load_engine,
)
from nfp_model.specs.moe_kernel import MoEKernel, MoERow, TunedShape
from nfp_model.specs.registry import load_hardware

INFERRED = "**inferred**"

CAPTURE_EXAMPLE = "h100"
"""GPU whose captured sizes are written out."""


def granularity_page() -> str:
    """Contents, kernels by operator kind, engine defaults, captured graphs."""
    libraries = list(all_libraries())
    engines = [load_engine(name) for name in engine_names()]
    kinds: tuple[tuple[str, str, Callable[[KernelLibrary], Iterable[Kernel]]], ...] = (
        ("gemm", "Dense GEMM", lambda library: library.gemm),
        ("moe", "Fused MoE", lambda library: library.moe),
        ("attention", "Attention", lambda library: library.attention),
    )
    parts = ["## All kernels\n", contents(libraries)]
    for _, title, kernels in kinds:
        parts.append(f"## {title}\n")
        parts += [library_section(library, tuple(kernels(library))) for library in libraries if kernels(library)]
    parts += ["## Engine defaults\n", *(engine_section(engine) for engine in engines)]
    parts += ["## Captured CUDA graphs\n", *(captures_section(engine) for engine in engines)]
    return "\n".join(parts)


def contents(libraries: Iterable[KernelLibrary]) -> str:
    """One line for every library file."""
    rows = []
    for library in libraries:
        links = ", ".join(f"[{text(kernel.name)}](#{anchor('kernel', kernel.key)})" for kernel in library.kernels)
        rows.append(
            (code(library.name), text(library.library), codes(library.architectures), links, text(library.versions))
        )
    return table(("file", "library", "architectures", "kernels", "read in"), rows)


def library_section(library: KernelLibrary, kernels: tuple[Kernel, ...]) -> str:
    """Kernels of one kind of one library."""
    return "\n".join(kernel_section(library, kernel) for kernel in kernels)


def kernel_section(library: KernelLibrary, kernel: Kernel) -> str:
    """One kernel: facts, rows, notes."""
    lines = [
        target("kernel", kernel.key),
        f"### {code(kernel.key)}\n",
        f"{text(library.library)} on {codes(library.architectures)}, read in {text(kernel.versions or library.versions)}.",
    ]
    if kernel.inferred:
        lines.append(f"The rule is {INFERRED} from measured steps or traces, not read in source.")
    lines.append(f"Source: {text(kernel.source)}.\n")
    if isinstance(kernel, GemmKernel):
        lines.append(gemm_body(kernel))
    elif isinstance(kernel, MoEKernel):
        lines.append(moe_body(kernel))
    else:
        lines.append(attention_body(kernel))
    lines += [f"- {text(note)}" for note in kernel.notes]
    return "\n".join(lines) + "\n"


def up_to(name: str, low: int | float, high: int | float | None, lowest: int = 1) -> str:
    """A range in words: ``17 <= M <= 64``, ``M >= 65``; empty where it is open on both sides."""
    bounded = low > lowest
    if high is None:
        return f"{name} >= {low:g}" if bounded else ""
    if low == high:
        return f"{name} = {low:g}"
    return (f"{low:g} <= " if bounded else "") + f"{name} <= {high:g}"


def joined(parts: Iterable[str], otherwise: str) -> str:
    """Conditions in one code span."""
    return code(", ".join(part for part in parts if part) or otherwise)


def gemm_body(kernel: GemmKernel) -> str:
    """Menu, dispatch rows or scoring rule of a dense GEMM."""
    if kernel.stream_k:
        waves = "work is divided evenly over the SMs"
    elif kernel.hard_waves or kernel.selection != "menu":
        waves = "a partial wave costs a whole one"
    else:
        waves = "waves count in fractions"
    known = up_to("M", kernel.min_rows, kernel.max_rows) or "every M"
    facts = [f"Weights: {codes(kernel.weight_dtypes)}; {waves}; known for {code(known)}.\n"]
    if kernel.selection == "menu":
        facts.append(
            f"The cheapest tile of {codes(kernel.token_tiles)} token rows by {codes(kernel.output_tiles)} output columns, area at "
            f"most {kernel.max_tile_area}, split-K {codes(kernel.splits)}.\n"
        )
    elif kernel.selection == "dispatch":
        facts.append("The first row that holds gives the tile (M token rows, n outputs, k depth):\n")
        facts.append(table(("where", "tile", "cluster", "source"), (gemm_row(row) for row in kernel.rows)))
    else:
        facts.append(
            f"The block with the best score of {{py:mod}}`nfp_model.kernels.deepgemm` ({code(kernel.selection)}).\n"
        )
    return "\n".join(facts)


def gemm_row(row: GemmRow) -> tuple[str, ...]:
    """Where it holds, tile (tokens x outputs), cluster, its own source."""
    where = joined(
        (
            up_to("M", row.min_rows, row.max_rows),
            f"M % {row.rows_multiple_of} = 0" if row.rows_multiple_of else "",
            f"M % {row.rows_not_multiple_of} > 0" if row.rows_not_multiple_of else "",
            up_to("n", row.min_out_features, row.max_out_features),
            up_to("k", row.min_in_features, row.max_in_features),
            f"tiles <= {row.max_tiles_per_sm:g} per SM" if row.max_tiles_per_sm else "",
            f"tiles > {row.over_tiles_per_sm:g} per SM" if row.over_tiles_per_sm else "",
        ),
        "any M",
    )
    tile = f"{row.token_tile or 'M'} x {row.output_tile}"
    cluster = "" if row.cluster == (1, 1) else f"{row.cluster[0]} x {row.cluster[1]}"
    return where, tile, cluster, text(row.source or "")


MOE_SELECTIONS = {
    "smallest_covering": "the smallest that holds the rows per expert",
    "occupancy": "the first that the rows per expert fill by less than {fill_limit}",
    "next_power_of_two": "rows per expert rounded up to a power of two, twice that up to {double_up_to} rows, then at most {double_limit}",
}
"""How a menu of expert blocks is chosen from, by ``MoEKernel.selection``."""


def moe_body(kernel: MoEKernel) -> str:
    """Block rule of a fused MoE and its tuned shapes."""
    facts = [
        f"Weights: {codes(kernel.weight_dtypes)}; rows per expert are M k / E over {kernel.expert_basis} experts E.\n"
    ]
    if kernel.selection == "rows":
        facts.append(
            "The first row that holds gives the block (M tokens, N output columns of the first GEMM, K its depth):\n"
        )
        head = ("where", "block", "grouped", "versions", "source")
        facts.append(table(head, (moe_row(row) for row in kernel.rows)))
    else:
        rule = MOE_SELECTIONS[kernel.selection].format(**kernel.model_dump())
        grouped = "grouped" if kernel.grouped else "not grouped"
        facts.append(
            f"Of blocks of {codes(kernel.menu)} rows by {kernel.block_columns} columns, {grouped}: {rule}{_offset(kernel)}.\n"
        )
    if kernel.grouped_above_tokens_per_expert is not None:
        facts.append(f"Grouped in any case above {kernel.grouped_above_tokens_per_expert} tokens per expert.\n")
    if kernel.sparse_path_factor is not None:
        facts.append(
            f"Where {kernel.sparse_path_factor} M k <= E and without expert parallelism, every (token, expert) pair has its own block.\n"
        )
    if kernel.tuned:
        facts.append("Tuned shapes win over the rule (tokens: block):\n")
        tuned_head = ("GPU", "E", "width", "weights", "blocks by tokens", "source")
        facts.append(table(tuned_head, (tuned_row(shape) for shape in kernel.tuned)))
    return "\n".join(facts)


def _offset(kernel: MoEKernel) -> str:
    if kernel.menu_offset == 0:
        return ""
    steps, way = abs(kernel.menu_offset), "down" if kernel.menu_offset < 0 else "up"
    return f", then {steps} {'step' if steps == 1 else 'steps'} {way} the menu"


def moe_row(row: MoERow) -> tuple[str, ...]:
    """Where it holds, block, grouping, versions, source."""
    where, _, block = row.words.rpartition(": ")
    source = text(row.source) + (f" {INFERRED}" if row.inferred else "")
    return code(where), block, "yes" if row.grouped else "no", text(row.versions or ""), source


def tuned_row(shape: TunedShape) -> tuple[str, ...]:
    """Device, experts, width, formats, blocks by token count, file."""
    columns: tuple[int | None, ...] = shape.block_columns or (None,) * len(shape.tokens)
    blocks = (
        f"{tokens}: {rows}" + (f" x {width}" if width else "")
        for tokens, rows, width in zip(shape.tokens, shape.block_rows, columns, strict=True)
    )
    devices = codes(shape.devices) or "any"
    return (
        devices,
        str(shape.num_experts),
        str(shape.width),
        codes(shape.weight_dtypes),
        "; ".join(blocks),
        text(shape.source),
    )


def attention_body(kernel: AttentionKernel) -> str:
    """Modes of an attention kernel."""
    what = "MLA in its absorbed form" if kernel.latent else "ordinary attention"
    known = up_to("N", 1, kernel.max_positions) or "every N"
    facts = f"Serves {what}; cache: {codes(kernel.kv_dtypes)}; known for {code(known)}.\n\n"
    head = ("where", "tile rows", "packing", "KV split", "KV block", "CTAs per SM", "source")
    return facts + table(head, (attention_row(row) for row in kernel.rows))


def attention_row(row: AttentionRow) -> tuple[str, ...]:
    """Where it holds, tile, packing, splits, occupancy, its own source."""
    packed = "longest N g of a captured graph" if row.packed_length == "graph_worst" else "N g"
    where = joined(
        (
            up_to("N", row.min_positions, row.max_positions),
            up_to(packed, row.min_packed, row.max_packed),
            up_to("g", row.min_group, row.max_group),
            up_to("d", row.min_head_dim, row.max_head_dim),
            up_to("B", 1, row.max_batch),
            up_to("useful tiles", 1, row.max_useful_tiles),
            up_to("useful tiles per SM", 0, row.max_tiles_per_sm, lowest=0),
            up_to("keys of a split that fills the SMs", 1, row.max_split_keys),
            {None: "", True: "sliding window", False: "no sliding window"}[row.windowed],
            {None: "", True: "causal", False: "bidirectional"}[row.causal],
        ),
        "any N",
    )
    tile = (
        f"{row.tile_rows}" if row.tile_rule == "fixed" else f"{row.tile_rule.replace('_', ' ')}, from {row.tile_rows}"
    )
    cap = "" if row.max_splits is None else f", at most {row.max_splits}"
    split = f"{row.split_rule}{cap}"
    return where, tile, row.packing, text(split), str(row.kv_block), str(row.resident), text(row.source or "")


def engine_section(engine: EngineDefaults) -> str:
    """Which kernel an engine runs where."""
    head = ("operator", "architectures", "data types", "further conditions", "kernel", "source")
    rows = table(head, (default_row(row) for row in engine.rows))
    return f"{target('engine', engine.engine)}### {engine.engine}\n\nRead in {text(engine.versions)}; the first row that holds.\n\n{rows}"


def default_row(row: DefaultRow) -> tuple[str, ...]:
    """Operator, architectures, formats, conditions, kernel, source."""
    further = ", ".join(part for part in further_conditions(row) if part)
    kernel = f"[{code(row.kernel)}](#{anchor('kernel', row.kernel)})"
    source = text(row.source) + (f" {INFERRED}" if row.inferred else "")
    formats = codes((*row.weight_dtypes, *row.kv_dtypes)) or "any"
    return row.operator, codes(row.architectures) or "any", formats, further, kernel, source


def further_conditions(row: DefaultRow) -> tuple[str, ...]:
    """Conditions beside architecture and data type, in words; empty strings for those not set."""
    return (
        "/".join(row.decode_modes),
        f"n and k multiples of {row.features_multiple_of}" if row.features_multiple_of else "",
        {None: "", True: "expert parallel", False: "no expert parallelism"}[row.expert_parallel],
        up_to("g", row.min_group, row.max_group),
        up_to("d", row.min_head_dim, row.max_head_dim),
        {None: "", True: "equal head sizes", False: "unequal head sizes"}[row.equal_head_dims],
    )


def captures_section(engine: EngineDefaults) -> str:
    """Captured sizes of one engine, with its list for one position on the example GPU written out."""
    if not engine.captures:
        return f"### Graphs of {engine.engine}\n\nNone captured by default.\n"
    gpu = load_hardware(CAPTURE_EXAMPLE)
    head = ("list", "counts", "positions", "sizes", "largest", "source")
    rows = table(head, (capture_row(sizes) for sizes in engine.captures))
    listed = captured_sizes(engine.engine, gpu, 1).tolist()
    example = ", ".join(str(size) for size in listed[:16]) + (", ..." if len(listed) > 16 else "")
    return (
        f"### Graphs of {engine.engine}\n\n{rows}\n"
        f"On {text(gpu.title)} with one position: {example} up to {listed[-1]} ({len(listed)} graphs).\n"
    )


def capture_row(sizes: CaptureSizes) -> tuple[str, ...]:
    """Name, what is counted, positions, sizes and limits in words, source."""
    steps = "; ".join(_range(part) for part in sizes.sizes)
    multiples = "; and N times 1, 2, 4, ..." if sizes.position_multiples else ""
    positions = up_to("N", sizes.min_positions, sizes.max_positions) or "every N"
    largest = "; ".join(_largest(limit) for limit in sizes.largest)
    return text(sizes.name), sizes.counts, code(positions), text(steps + multiples), text(largest), text(sizes.source)


def _range(part: Any) -> str:
    if part.start == part.stop:
        return f"{part.start}"
    end = "the largest" if part.stop is None else f"{part.stop}"
    return f"{part.start} to {end} by {part.step}"


def _largest(limit: Any) -> str:
    where = [", ".join(limit.architectures)] if limit.architectures else []
    if limit.below_memory_bytes is not None:
        where.append(f"below {limit.below_memory_bytes / 1e9:.3g} GB")
    return f"{limit.size}" + (f" ({', '.join(where)})" if where else "")
