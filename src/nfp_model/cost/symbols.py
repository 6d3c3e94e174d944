"""Every symbol of the cost model: born here, nowhere else, with unit, meaning and source.

The names follow docs/nomenclature; the numbers in brackets in ``source`` are sections of docs/theory.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp


@dataclass(frozen=True)
class SymbolInfo:
    """A symbol and what it stands for.

    Attributes
    ----------
    symbol : sympy.Symbol
        As it appears in expressions.
    unit : str
        SI unit, ``-`` when dimensionless.
    meaning : str
        In words.
    origin : {"datasheet", "model", "workload", "kernel", "fitted"}
        Who supplies the number.
    """

    symbol: sp.Symbol
    unit: str
    meaning: str
    origin: str


SYMBOLS: dict[str, SymbolInfo] = {}


def _new(name: str, latex: str, unit: str, meaning: str, origin: str) -> sp.Symbol:
    symbol = sp.Symbol(latex, positive=True)
    SYMBOLS[name] = SymbolInfo(symbol, unit, meaning, origin)
    return symbol


# Datasheet
BW = _new("bandwidth", "BW", "B/s", "memory bandwidth", "datasheet")
P = _new("peak", "P", "FLOP/s", "dense matrix peak of the data type", "datasheet")
SM = _new("sm_count", "SM", "-", "streaming multiprocessors", "datasheet")

# Workload and shape
M = _new("rows", "M", "-", "token rows entering the operator, batch x positions", "workload")
n = _new("out_features", "n", "-", "output features", "model")
k = _new("in_features", "k", "-", "input features", "model")
W = _new("weight_bytes", "W", "B", "weight bytes, scales included", "model")
a = _new("row_bytes", "a", "B", "activation bytes moved for one row", "model")
a_q = _new(
    "quantized_bytes",
    "a_q",
    "B",
    "bytes that quantising passes before the product move for one row, at the memory's rate",
    "kernel",
)
F = _new("row_flop", "F", "FLOP", "FLOP of one row", "model")
Y = _new("moved_bytes", "Y", "B", "bytes moved", "workload")
V = _new("kv_bytes", "V", "B", "KV-cache bytes read", "workload")
V_s = _new(
    "side_bytes",
    "V_s",
    "B",
    "queries read, outputs written, and what a cache converted or read again moves besides",
    "workload",
)
B = _new("batch", "B", "-", "sequences", "workload")
N = _new("positions", "N", "-", "decode positions per sequence", "workload")

# Counts, computed exactly by kernel rules
b_m = _new("tile_rows", "b_m", "-", "token rows of a tile or expert block", "kernel")
b_n = _new("tile_columns", "b_n", "-", "output columns of a tile", "kernel")
s = _new("splits", "s", "-", "split-K parts", "kernel")
sigma = _new("is_split", "sigma", "-", "1 where split, else 0", "kernel")
f = _new("waves", "f", "-", "waves of tiles over the SMs", "kernel")
u = _new("idle_share", "u", "-", "share of the rows paid for that lie outside M, where they slow the kernel", "kernel")
x = _new(
    "rereads",
    "x",
    "-",
    "row tiles beyond the first, a cluster counted once; with DeepGEMM on Hopper also the last one's idle share",
    "kernel",
)
A = _new("experts_touched", "A", "-", "experts with at least one row", "kernel")
NB = _new("row_blocks", "N_B", "-", "row blocks over all experts", "kernel")
E_w = _new("walked_experts", "E_w", "-", "experts whose entry the kernel's tile scheduler walks through", "kernel")
W_u = _new("up_bytes", "W_u", "B", "gate and up weights of one expert", "model")
W_d = _new("down_bytes", "W_d", "B", "down weights of one expert", "model")
r_u = _new("reread_up", "r_u", "-", "share of W_u read again per further row block", "kernel")
r_d = _new("reread_down", "r_d", "-", "share of W_d read again per further row block", "kernel")
d = _new("step_width", "d", "-", "bytes of a key step relative to d_k + d_v = 256 in 16 bits", "model")
rho = _new("tile_cost", "rho", "-", "time of a CTA's start or key step relative to a 64-row query tile", "kernel")
f_h = _new(
    "hidden_starts",
    "f_h",
    "-",
    "CTAs an SM starts in turn, side by side with other CTAs' streams, longer ones by their length",
    "kernel",
)
f_x = _new(
    "exposed_starts",
    "f_x",
    "-",
    "CTAs an SM starts in turn, nothing streaming meanwhile, longer ones by their length",
    "kernel",
)
c_p = _new(
    "passes", "c_p", "-", "work besides the main kernel: combination of splits, copies that regroup heads", "kernel"
)
B_p = _new(
    "planned",
    "B_p",
    "-",
    "sequences taken one by one: by the kernel that plans, or before a block of several positions",
    "kernel",
)
q = _new("key_steps", "q", "-", "serial steps of 128 keys one CTA walks", "kernel")
P_a = _new("attention_peak", "P_a", "FLOP/s", "dense matrix peak of 16-bit types", "datasheet")
P_i = _new("index_peak", "P_i", "FLOP/s", "dense matrix peak of 8-bit types", "datasheet")
x_g = _new("exchanges", "x_g", "-", "exchanges of a collective after its first", "kernel")
r_2 = _new("further_ranks", "r_2", "-", "ranks of a collective beyond two", "workload")
f_k = _new(
    "selection_waves", "f_k", "-", "waves of rows that pick among more compressed tokens than they may keep", "kernel"
)
f_q = _new(
    "ranking_waves",
    "f_q",
    "-",
    "waves of rows that rank all their compressed tokens by pairs, as shares of 2048 squared",
    "kernel",
)
Y_x = _new("index_bytes", "Y_x", "B", "keys of an indexer over compressed tokens", "workload")
I_x = _new("index_flop", "I_x", "FLOP", "scores of an indexer over compressed tokens", "workload")
G = _new("padded_flop", "G", "FLOP", "attention FLOP over padded query tiles", "kernel")

# Fitted
t_0 = _new("fixed_time", "t_0", "s", "fixed time of the launch sequence", "fitted")
e_b = _new("memory_efficiency", "e_b", "-", "share of the bandwidth a saturated kernel reaches", "fitted")
e_f = _new("matrix_efficiency", "e_f", "-", "share of the dense peak a saturated kernel reaches", "fitted")
e_a = _new("activation_efficiency", "e_a", "-", "share of the bandwidth row traffic reaches", "fitted")
p = _new("overlap_exponent", "p", "-", "sharpness of the overlap of memory and matrix time", "fitted")
r = _new(
    "reread_share",
    "r",
    "-",
    "share of the weights each further row tile reads again, and slowing by idle rows",
    "fitted",
)
k_c = _new("chain_time", "k_c", "s", "serial time of one CTA per element of k", "fitted")
e_g = _new("attention_efficiency", "e_g", "-", "share of the peak attention reaches within a block", "fitted")
e_i = _new("index_efficiency", "e_i", "-", "share of the peak an indexer reaches", "fitted")
t_x = _new("exchange_time", "t_x", "s", "time of one more exchange of a collective", "fitted")
t_r = _new("rank_time", "t_r", "s", "time of one more rank of a collective", "fitted")
t_k = _new(
    "selection_time", "t_k", "s", "time of a wave of selections among compressed tokens, one row an SM", "fitted"
)
t_q = _new("ranking_time", "t_q", "s", "time of ranking 2048 compressed tokens by pairs, one row an SM", "fitted")
t_s = _new("split_time", "t_s", "s", "time of combining two split parts, or of one more kernel", "fitted")
t_b = _new("sequence_time", "t_b", "s", "time per sequence taken one by one", "fitted")
t_c = _new("cta_time", "t_c", "s", "start and end of one attention CTA", "fitted")
t_w = _new("wave_time", "t_w", "s", "time a wave of expert blocks takes beside its data", "fitted")
t_e = _new("expert_time", "t_e", "s", "time a tile scheduler takes for one expert's entry", "fitted")
tau = _new("step_time", "tau", "s", "time of a 128-key step with a 64-row tile", "fitted")
eps = _new("tolerance", "epsilon", "-", "near-free tolerance", "workload")
E = _new("experts", "E", "-", "routed experts", "model")
K = _new("top_k", "kappa", "-", "experts each token visits", "model")

# Of the closed form alone
T_0 = _new("baseline_latency", "T_0", "s", "latency at the baseline", "workload")
M_0 = _new("baseline_rows", "M_0", "-", "token rows at the baseline", "workload")
N_0 = _new("baseline", "N_0", "-", "baseline positions per sequence", "workload")
theta = _new(
    "free_time", "theta", "s", "time memory and matrix work may take together within the tolerance", "workload"
)
g = _new("group_size", "g", "-", "query heads per KV head", "model")
o = _new("resident", "o", "-", "attention CTAs resident per SM", "kernel")
c = _new("ctas_per_tile", "c", "-", "CTAs per query tile: sequences x KV heads x splits", "kernel")


def info_of(symbol: sp.Symbol) -> SymbolInfo:
    """What a symbol of an expression stands for.

    Examples
    --------
    >>> info_of(BW).unit
    'B/s'
    """
    return next(info for info in SYMBOLS.values() if info.symbol == symbol)
