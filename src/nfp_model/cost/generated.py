"""NumPy code of every latency equation and term: written by ``python -m nfp_model.cost.generating``, not by hand."""

# ruff: noqa
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy import sqrt, square

PER_TIME = frozenset(['attention_peak', 'bandwidth', 'index_peak', 'peak'])
TIMES = frozenset(['baseline_latency', 'chain_time', 'cta_time', 'exchange_time', 'expert_time', 'fixed_time', 'free_time', 'rank_time', 'ranking_time', 'selection_time', 'sequence_time', 'split_time', 'step_time', 'wave_time'])


def gemm_latency(BW: Any, M: Any, P: Any, SM: Any, W: Any, a: Any, a_q: Any, b_m: Any, b_n: Any, e_b: Any, e_f: Any, f: Any, k: Any, k_c: Any, n: Any, p: Any, r: Any, s: Any, sigma: Any, t_0: Any, t_s: Any, u: Any, x: Any) -> Any:
    x0 = BW**(-1.0)
    x1 = x0/e_b
    x2 = r*u + 1
    return M*a_q*x1 + sigma*t_s + t_0 + sqrt(square(f)*square(k)*square(k_c)*square(x2)/square(s) + ((2*SM*b_m*b_n*f*k*x2/(P*e_f*s))**p + ((8/3)*M*n*s*sigma*x0 + x1*(M*a + W*(r*x + 1)))**p)**(2/p))


def gemm_memory(BW: Any, M: Any, W: Any, a: Any, e_b: Any, n: Any, r: Any, s: Any, sigma: Any, x: Any) -> Any:
    x0 = BW**(-1.0)
    return (8/3)*M*n*s*sigma*x0 + x0*(M*a + W*(r*x + 1))/e_b


def gemm_matrix(P: Any, SM: Any, b_m: Any, b_n: Any, e_f: Any, f: Any, k: Any, r: Any, s: Any, u: Any) -> Any:
    return 2*SM*b_m*b_n*f*k*(r*u + 1)/(P*e_f*s)


def gemm_chain(f: Any, k: Any, k_c: Any, r: Any, s: Any, u: Any) -> Any:
    return f*k*k_c*(r*u + 1)/s


def gemm_rows(BW: Any, M: Any, a_q: Any, e_b: Any) -> Any:
    return M*a_q/(BW*e_b)


def gemm_fixed(sigma: Any, t_0: Any, t_s: Any) -> Any:
    return sigma*t_s + t_0


def moe_latency(A: Any, BW: Any, E_w: Any, F: Any, N_B: Any, P: Any, W_d: Any, W_u: Any, Y: Any, b_m: Any, e_a: Any, e_b: Any, e_f: Any, f: Any, p: Any, r_d: Any, r_u: Any, t_0: Any, t_e: Any, t_w: Any) -> Any:
    x0 = BW**(-1.0)
    x1 = -A + N_B
    return E_w*t_e + Y*x0/e_a + t_0 + ((f*t_w)**p + (x0*(W_d*(A + r_d*x1) + W_u*(A + r_u*x1))/e_b)**p + (F*N_B*b_m/(P*e_f))**p)**(p**(-1.0))


def moe_memory(A: Any, BW: Any, N_B: Any, W_d: Any, W_u: Any, e_b: Any, r_d: Any, r_u: Any) -> Any:
    x0 = -A + N_B
    return (W_d*(A + r_d*x0) + W_u*(A + r_u*x0))/(BW*e_b)


def moe_matrix(F: Any, N_B: Any, P: Any, b_m: Any, e_f: Any) -> Any:
    return F*N_B*b_m/(P*e_f)


def moe_chain(f: Any, t_w: Any) -> Any:
    return f*t_w


def moe_rows(BW: Any, Y: Any, e_a: Any) -> Any:
    return Y/(BW*e_a)


def moe_fixed(E_w: Any, t_0: Any, t_e: Any) -> Any:
    return E_w*t_e + t_0


def attention_latency(BW: Any, B_p: Any, G: Any, P: Any, V: Any, V_s: Any, c_p: Any, d: Any, e_b: Any, e_f: Any, f: Any, f_h: Any, f_x: Any, p: Any, q: Any, rho: Any, t_0: Any, t_b: Any, t_c: Any, t_s: Any, tau: Any) -> Any:
    return B_p*t_b + c_p*t_s + f_x*rho*t_c + t_0 + ((rho*(d*f*q*tau + f_h*t_c))**p + ((V + V_s)/(BW*e_b))**p + (G/(P*e_f))**p)**(p**(-1.0))


def attention_memory(BW: Any, V: Any, V_s: Any, e_b: Any) -> Any:
    return (V + V_s)/(BW*e_b)


def attention_chain(d: Any, f: Any, f_h: Any, q: Any, rho: Any, t_c: Any, tau: Any) -> Any:
    return rho*(d*f*q*tau + f_h*t_c)


def attention_matrix(G: Any, P: Any, e_f: Any) -> Any:
    return G/(P*e_f)


def attention_fixed(B_p: Any, c_p: Any, f_x: Any, rho: Any, t_0: Any, t_b: Any, t_c: Any, t_s: Any) -> Any:
    return B_p*t_b + c_p*t_s + f_x*rho*t_c + t_0


def block_latency(BW: Any, B_p: Any, F: Any, G: Any, I_x: Any, M: Any, P: Any, P_a: Any, P_i: Any, W: Any, Y: Any, Y_x: Any, e_a: Any, e_b: Any, e_f: Any, e_g: Any, e_i: Any, f_k: Any, f_q: Any, p: Any, t_0: Any, t_b: Any, t_k: Any, t_q: Any) -> Any:
    x0 = BW**(-1.0)
    x1 = x0/e_b
    x2 = p**(-1.0)
    return B_p*t_b + G/(P_a*e_g) + Y*x0/e_a + f_k*t_k + f_q*t_q + t_0 + ((W*x1)**p + (F*M/(P*e_f))**p)**x2 + ((Y_x*x1)**p + (I_x/(P_i*e_i))**p)**x2


def block_memory(BW: Any, W: Any, e_b: Any) -> Any:
    return W/(BW*e_b)


def block_matrix(F: Any, M: Any, P: Any, e_f: Any) -> Any:
    return F*M/(P*e_f)


def block_attention(BW: Any, G: Any, I_x: Any, P_a: Any, P_i: Any, Y_x: Any, e_b: Any, e_g: Any, e_i: Any, f_k: Any, f_q: Any, p: Any, t_k: Any, t_q: Any) -> Any:
    return G/(P_a*e_g) + f_k*t_k + f_q*t_q + ((Y_x/(BW*e_b))**p + (I_x/(P_i*e_i))**p)**(p**(-1.0))


def block_rows(BW: Any, Y: Any, e_a: Any) -> Any:
    return Y/(BW*e_a)


def block_fixed(B_p: Any, t_0: Any, t_b: Any) -> Any:
    return B_p*t_b + t_0


def stream_latency(BW: Any, Y: Any, e_b: Any, t_0: Any) -> Any:
    return t_0 + Y/(BW*e_b)


def stream_memory(BW: Any, Y: Any, e_b: Any) -> Any:
    return Y/(BW*e_b)


def stream_fixed(t_0: Any) -> Any:
    return t_0


def collective_latency(BW: Any, Y: Any, e_b: Any, r_2: Any, t_0: Any, t_r: Any, t_x: Any, x_g: Any) -> Any:
    return r_2*t_r + t_0 + t_x*x_g + Y/(BW*e_b)


def collective_memory(BW: Any, Y: Any, e_b: Any) -> Any:
    return Y/(BW*e_b)


def collective_fixed(r_2: Any, t_0: Any, t_r: Any, t_x: Any, x_g: Any) -> Any:
    return r_2*t_r + t_0 + t_x*x_g


FUNCTIONS: dict[tuple[str, str | None], tuple[tuple[str, ...], Callable[..., Any]]] = {
    ('gemm', None): (('bandwidth', 'rows', 'peak', 'sm_count', 'weight_bytes', 'row_bytes', 'quantized_bytes', 'tile_rows', 'tile_columns', 'memory_efficiency', 'matrix_efficiency', 'waves', 'in_features', 'chain_time', 'out_features', 'overlap_exponent', 'reread_share', 'splits', 'is_split', 'fixed_time', 'split_time', 'idle_share', 'rereads'), gemm_latency),
    ('gemm', 'memory'): (('bandwidth', 'rows', 'weight_bytes', 'row_bytes', 'memory_efficiency', 'out_features', 'reread_share', 'splits', 'is_split', 'rereads'), gemm_memory),
    ('gemm', 'matrix'): (('peak', 'sm_count', 'tile_rows', 'tile_columns', 'matrix_efficiency', 'waves', 'in_features', 'reread_share', 'splits', 'idle_share'), gemm_matrix),
    ('gemm', 'chain'): (('waves', 'in_features', 'chain_time', 'reread_share', 'splits', 'idle_share'), gemm_chain),
    ('gemm', 'rows'): (('bandwidth', 'rows', 'quantized_bytes', 'memory_efficiency'), gemm_rows),
    ('gemm', 'fixed'): (('is_split', 'fixed_time', 'split_time'), gemm_fixed),
    ('moe', None): (('experts_touched', 'bandwidth', 'walked_experts', 'row_flop', 'row_blocks', 'peak', 'down_bytes', 'up_bytes', 'moved_bytes', 'tile_rows', 'activation_efficiency', 'memory_efficiency', 'matrix_efficiency', 'waves', 'overlap_exponent', 'reread_down', 'reread_up', 'fixed_time', 'expert_time', 'wave_time'), moe_latency),
    ('moe', 'memory'): (('experts_touched', 'bandwidth', 'row_blocks', 'down_bytes', 'up_bytes', 'memory_efficiency', 'reread_down', 'reread_up'), moe_memory),
    ('moe', 'matrix'): (('row_flop', 'row_blocks', 'peak', 'tile_rows', 'matrix_efficiency'), moe_matrix),
    ('moe', 'chain'): (('waves', 'wave_time'), moe_chain),
    ('moe', 'rows'): (('bandwidth', 'moved_bytes', 'activation_efficiency'), moe_rows),
    ('moe', 'fixed'): (('walked_experts', 'fixed_time', 'expert_time'), moe_fixed),
    ('attention', None): (('bandwidth', 'planned', 'padded_flop', 'peak', 'kv_bytes', 'side_bytes', 'passes', 'step_width', 'memory_efficiency', 'matrix_efficiency', 'waves', 'hidden_starts', 'exposed_starts', 'overlap_exponent', 'key_steps', 'tile_cost', 'fixed_time', 'sequence_time', 'cta_time', 'split_time', 'step_time'), attention_latency),
    ('attention', 'memory'): (('bandwidth', 'kv_bytes', 'side_bytes', 'memory_efficiency'), attention_memory),
    ('attention', 'chain'): (('step_width', 'waves', 'hidden_starts', 'key_steps', 'tile_cost', 'cta_time', 'step_time'), attention_chain),
    ('attention', 'matrix'): (('padded_flop', 'peak', 'matrix_efficiency'), attention_matrix),
    ('attention', 'fixed'): (('planned', 'passes', 'exposed_starts', 'tile_cost', 'fixed_time', 'sequence_time', 'cta_time', 'split_time'), attention_fixed),
    ('block', None): (('bandwidth', 'planned', 'row_flop', 'padded_flop', 'index_flop', 'rows', 'peak', 'attention_peak', 'index_peak', 'weight_bytes', 'moved_bytes', 'index_bytes', 'activation_efficiency', 'memory_efficiency', 'matrix_efficiency', 'attention_efficiency', 'index_efficiency', 'selection_waves', 'ranking_waves', 'overlap_exponent', 'fixed_time', 'sequence_time', 'selection_time', 'ranking_time'), block_latency),
    ('block', 'memory'): (('bandwidth', 'weight_bytes', 'memory_efficiency'), block_memory),
    ('block', 'matrix'): (('row_flop', 'rows', 'peak', 'matrix_efficiency'), block_matrix),
    ('block', 'attention'): (('bandwidth', 'padded_flop', 'index_flop', 'attention_peak', 'index_peak', 'index_bytes', 'memory_efficiency', 'attention_efficiency', 'index_efficiency', 'selection_waves', 'ranking_waves', 'overlap_exponent', 'selection_time', 'ranking_time'), block_attention),
    ('block', 'rows'): (('bandwidth', 'moved_bytes', 'activation_efficiency'), block_rows),
    ('block', 'fixed'): (('planned', 'fixed_time', 'sequence_time'), block_fixed),
    ('stream', None): (('bandwidth', 'moved_bytes', 'memory_efficiency', 'fixed_time'), stream_latency),
    ('stream', 'memory'): (('bandwidth', 'moved_bytes', 'memory_efficiency'), stream_memory),
    ('stream', 'fixed'): (('fixed_time',), stream_fixed),
    ('collective', None): (('bandwidth', 'moved_bytes', 'memory_efficiency', 'further_ranks', 'fixed_time', 'rank_time', 'exchange_time', 'exchanges'), collective_latency),
    ('collective', 'memory'): (('bandwidth', 'moved_bytes', 'memory_efficiency'), collective_memory),
    ('collective', 'fixed'): (('further_ranks', 'fixed_time', 'rank_time', 'exchange_time', 'exchanges'), collective_fixed),
}
