"""NumPy code of every latency equation and term: written by ``python -m nfp_model.cost.generating``, not by hand."""

# ruff: noqa
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy import sqrt, square

PER_TIME = frozenset(['bandwidth', 'peak'])
TIMES = frozenset(['baseline_latency', 'chain_time', 'cta_time', 'fixed_time', 'free_time', 'sequence_time', 'split_time', 'step_time'])


def gemm_latency(BW: Any, M: Any, P: Any, SM: Any, W: Any, a: Any, b_m: Any, b_n: Any, e_b: Any, e_f: Any, f: Any, k: Any, k_c: Any, n: Any, p: Any, r: Any, s: Any, sigma: Any, t_0: Any, t_s: Any, u: Any, x: Any) -> Any:
    x0 = r*u + 1
    x1 = BW**(-1.0)
    return sigma*t_s + t_0 + sqrt(square(f)*square(k)*square(k_c)*square(x0)/square(s) + ((2*SM*b_m*b_n*f*k*x0/(P*e_f*s))**p + ((8/3)*M*n*s*sigma*x1 + x1*(M*a + W*(r*x + 1))/e_b)**p)**(2/p))


def gemm_memory(BW: Any, M: Any, W: Any, a: Any, e_b: Any, n: Any, r: Any, s: Any, sigma: Any, x: Any) -> Any:
    x0 = BW**(-1.0)
    return (8/3)*M*n*s*sigma*x0 + x0*(M*a + W*(r*x + 1))/e_b


def gemm_matrix(P: Any, SM: Any, b_m: Any, b_n: Any, e_f: Any, f: Any, k: Any, r: Any, s: Any, u: Any) -> Any:
    return 2*SM*b_m*b_n*f*k*(r*u + 1)/(P*e_f*s)


def gemm_chain(f: Any, k: Any, k_c: Any, r: Any, s: Any, u: Any) -> Any:
    return f*k*k_c*(r*u + 1)/s


def gemm_fixed(sigma: Any, t_0: Any, t_s: Any) -> Any:
    return sigma*t_s + t_0


def moe_latency(A: Any, BW: Any, F: Any, N_B: Any, P: Any, W_d: Any, W_u: Any, Y: Any, b_m: Any, e_a: Any, e_b: Any, e_f: Any, p: Any, r_d: Any, r_u: Any, t_0: Any) -> Any:
    x0 = BW**(-1.0)
    x1 = -A + N_B
    return Y*x0/e_a + t_0 + ((x0*(W_d*(A + r_d*x1) + W_u*(A + r_u*x1))/e_b)**p + (F*N_B*b_m/(P*e_f))**p)**(p**(-1.0))


def moe_memory(A: Any, BW: Any, N_B: Any, W_d: Any, W_u: Any, e_b: Any, r_d: Any, r_u: Any) -> Any:
    x0 = -A + N_B
    return (W_d*(A + r_d*x0) + W_u*(A + r_u*x0))/(BW*e_b)


def moe_matrix(F: Any, N_B: Any, P: Any, b_m: Any, e_f: Any) -> Any:
    return F*N_B*b_m/(P*e_f)


def moe_rows(BW: Any, Y: Any, e_a: Any) -> Any:
    return Y/(BW*e_a)


def moe_fixed(t_0: Any) -> Any:
    return t_0


def attention_latency(B: Any, BW: Any, G: Any, P: Any, V: Any, d: Any, e_b: Any, e_f: Any, f: Any, p: Any, q: Any, rho: Any, sigma: Any, t_0: Any, t_b: Any, t_c: Any, t_s: Any, tau: Any) -> Any:
    return B*t_b + sigma*t_s + t_0 + ((f*(d*q*rho*tau + t_c))**p + (V/(BW*e_b))**p + (G/(P*e_f))**p)**(p**(-1.0))


def attention_memory(BW: Any, V: Any, e_b: Any) -> Any:
    return V/(BW*e_b)


def attention_chain(d: Any, f: Any, q: Any, rho: Any, t_c: Any, tau: Any) -> Any:
    return f*(d*q*rho*tau + t_c)


def attention_matrix(G: Any, P: Any, e_f: Any) -> Any:
    return G/(P*e_f)


def attention_fixed(B: Any, sigma: Any, t_0: Any, t_b: Any, t_s: Any) -> Any:
    return B*t_b + sigma*t_s + t_0


def stream_latency(BW: Any, Y: Any, e_b: Any, t_0: Any) -> Any:
    return t_0 + Y/(BW*e_b)


def stream_memory(BW: Any, Y: Any, e_b: Any) -> Any:
    return Y/(BW*e_b)


def stream_fixed(t_0: Any) -> Any:
    return t_0


FUNCTIONS: dict[tuple[str, str | None], tuple[tuple[str, ...], Callable[..., Any]]] = {
    ('gemm', None): (('bandwidth', 'rows', 'peak', 'sm_count', 'weight_bytes', 'row_bytes', 'tile_rows', 'tile_columns', 'memory_efficiency', 'matrix_efficiency', 'waves', 'in_features', 'chain_time', 'out_features', 'overlap_exponent', 'reread_share', 'splits', 'is_split', 'fixed_time', 'split_time', 'idle_share', 'rereads'), gemm_latency),
    ('gemm', 'memory'): (('bandwidth', 'rows', 'weight_bytes', 'row_bytes', 'memory_efficiency', 'out_features', 'reread_share', 'splits', 'is_split', 'rereads'), gemm_memory),
    ('gemm', 'matrix'): (('peak', 'sm_count', 'tile_rows', 'tile_columns', 'matrix_efficiency', 'waves', 'in_features', 'reread_share', 'splits', 'idle_share'), gemm_matrix),
    ('gemm', 'chain'): (('waves', 'in_features', 'chain_time', 'reread_share', 'splits', 'idle_share'), gemm_chain),
    ('gemm', 'fixed'): (('is_split', 'fixed_time', 'split_time'), gemm_fixed),
    ('moe', None): (('experts_touched', 'bandwidth', 'row_flop', 'row_blocks', 'peak', 'down_bytes', 'up_bytes', 'moved_bytes', 'tile_rows', 'activation_efficiency', 'memory_efficiency', 'matrix_efficiency', 'overlap_exponent', 'reread_down', 'reread_up', 'fixed_time'), moe_latency),
    ('moe', 'memory'): (('experts_touched', 'bandwidth', 'row_blocks', 'down_bytes', 'up_bytes', 'memory_efficiency', 'reread_down', 'reread_up'), moe_memory),
    ('moe', 'matrix'): (('row_flop', 'row_blocks', 'peak', 'tile_rows', 'matrix_efficiency'), moe_matrix),
    ('moe', 'rows'): (('bandwidth', 'moved_bytes', 'activation_efficiency'), moe_rows),
    ('moe', 'fixed'): (('fixed_time',), moe_fixed),
    ('attention', None): (('batch', 'bandwidth', 'padded_flop', 'peak', 'kv_bytes', 'step_width', 'memory_efficiency', 'matrix_efficiency', 'waves', 'overlap_exponent', 'key_steps', 'tile_cost', 'is_split', 'fixed_time', 'sequence_time', 'cta_time', 'split_time', 'step_time'), attention_latency),
    ('attention', 'memory'): (('bandwidth', 'kv_bytes', 'memory_efficiency'), attention_memory),
    ('attention', 'chain'): (('step_width', 'waves', 'key_steps', 'tile_cost', 'cta_time', 'step_time'), attention_chain),
    ('attention', 'matrix'): (('padded_flop', 'peak', 'matrix_efficiency'), attention_matrix),
    ('attention', 'fixed'): (('batch', 'is_split', 'fixed_time', 'sequence_time', 'split_time'), attention_fixed),
    ('stream', None): (('bandwidth', 'moved_bytes', 'memory_efficiency', 'fixed_time'), stream_latency),
    ('stream', 'memory'): (('bandwidth', 'moved_bytes', 'memory_efficiency'), stream_memory),
    ('stream', 'fixed'): (('fixed_time',), stream_fixed),
}
