"""Reading a ``config.json`` so that no field is passed over in silence: understood, known to be irrelevant, or told."""

from __future__ import annotations

from typing import Any

from nfp_model.errors import SpecError, UnsupportedError

_IRRELEVANT = """
_attn_implementation _name_or_path activation_type architectures attention_dropout attention_probs_dropout_prob
attention_value_scale attn_implementation attn_logit_softcapping attn_pdrop attn_scale attn_temperature_tuning
audio_config audio_token_id auto_map aux_loss_alpha bad_words_ids begin_suppress_tokens beta_fast beta_slow boa_token_id
boi_token_id bos_token_id chunk_size chunk_size_feed_forward clip_qkv cross_attention_hidden_size decoder_start_token_id
diversity_penalty do_sample early_stopping embd_pdrop embedding_dropout encoder_no_repeat_ngram_size eoa_token_id
eoa_token_index eod_token_id eoi_token_id eos_token_id ep_size eps expand exponential_decay_length_penalty
final_logit_softcapping finetuning_task floor_scale forced_bos_token_id forced_eos_token_id hidden_act hidden_activation
hidden_dropout id2label ignore_index image_grid_pinpoints image_placeholder image_seq_length image_token_id
image_token_index img_token_compression_config index_share_for_mtp_iteration index_skip_topk_offset index_topk_freq
index_topk_pattern indexer_rope_interleave init_cutoff_factor init_device init_fn init_std initial_context_length
initializer_range input_jitter_noise is_decoder is_encoder_decoder label2id language_model_only layer_norm_eps
layer_norm_epsilon layer_norm_type layer_norm_with_affine layernorm_epsilon length_penalty logits_scaling
mamba_hidden_act mask_token_id max_length media_placeholder_token_id min_length mlp_hidden_act mm_tokens_per_image
model_type moe_renormalize moe_router_activation_func moe_router_dtype moe_router_scaling_factor
moe_router_topk_scaling_factor moe_shared_expert_overlap moe_token_dispatcher_type mtp_hybrid_override_pattern
mtp_layers_block_type mtp_loss_scaling_factor mtp_transformer_layers mtp_use_dedicated_embeddings
multimodal_projector_bias no_repeat_ngram_size norm_eps norm_topk_prob num_beam_groups num_beams num_logits_to_keep
num_return_sequences num_reward_heads original_max_position_embeddings output_attentions output_dropout output_gate_type
output_hidden_states output_past output_router_logits output_scores pad_token_id partial_rotary_factor precision prefix
pretraining_tp problem_type process_image_mode projector_hidden_act projector_hidden_size pruned_heads
query_pre_attn_scalar remove_invalid_values repetition_penalty rescale_prenorm_residual resid_pdrop residual_dropout
residual_in_fp32 return_dict return_dict_in_generate rms_norm_eps rope rope_full_precision rope_interleave
rope_local_base_freq rope_parameters rope_scaling rope_theta rotary_dim rotary_emb_base routed_scaling_factor
router_aux_loss_coef router_dtype router_jitter_noise score_function scoring_func sep_token_id seq_aux suppress_tokens
swa_rope_theta swiglu_alpha swiglu_limit task_specific_params temperature text_config tf_legacy_loss tie_encoder_decoder
time_step_floor time_step_limit time_step_max time_step_min time_step_rank tokenizer_class top_k top_p torchscript
transformers_version typical_p use_bfloat16 use_bidirectional_attention use_cache use_gemma_norm use_grouped_topk
use_mamba_kernels use_mrope use_mtp use_unified_vision_chunk video_placeholder video_token_id video_token_index
vision_end_token_id vision_feature_layer vision_feature_select_strategy vision_soft_tokens_per_image
vision_start_token_id vocab_size_per_layer_input
"""
IRRELEVANT = frozenset(_IRRELEVANT.split())
"""Keys without effect on bytes, FLOPs and shapes of a decode (norm constants, rotary, sampling, training, vision)."""

BEYOND = {
    "compress_ratios": "a compressed KV cache",
    "hc_mult": "hyper-connections between layers",
    "o_lora_rank": "a grouped low-rank output projection",
    "num_hash_layers": "hash-routed layers",
    "sparse_attention_config": "block-sparse attention chosen by an index branch",
    "linear_attn_config": "Kimi delta attention",
    "mla_use_output_gate": "an output gate on latent attention",
    "attn_res_block_size": "attention over the residuals of earlier blocks",
    "num_kv_shared_layers": "layers that read another layer's KV cache",
    "hidden_size_per_layer_input": "per-layer input embeddings",
    "use_double_wide_mlp": "feed-forward blocks of doubled width",
    "cross_attention_layers": "cross-attention layers",
    "add_cross_attention": "cross-attention layers",
}
"""Keys that, when set, ask for something a :class:`ModelSpec` has no field for, and what that is."""


class ConfigReader:
    """One configuration dict that remembers which keys were understood.

    Parameters
    ----------
    data : dict
        The configuration of the language model: ``text_config`` where the file nests one.
    outer : dict
        The whole file; asked for what ``data`` does not say. The same object where nothing is nested.
    origin : str
        What to call the file in an error.

    Examples
    --------
    >>> reader = ConfigReader({"n_routed_experts": 8, "foo": 1}, {}, "config.json")
    >>> reader.integer("num_experts", "n_routed_experts"), reader.unread()
    (8, {'foo': 1})
    """

    def __init__(self, data: dict[str, Any], outer: dict[str, Any], origin: str) -> None:
        self.data, self.outer, self.origin = data, outer, origin
        self._read: set[str] = set()

    def get(self, *names: str, default: Any = None) -> Any:
        """Value of the first name that is set (null counts as absent); names that contradict each other are refused."""
        self._read.update(names)
        found = {
            name: source[name] for source in (self.outer, self.data) for name in names if source.get(name) is not None
        }
        inner = {name: value for name, value in found.items() if self.data.get(name) is not None} or found
        values = list(inner.values())
        if any(value != values[0] for value in values[1:]):
            raise SpecError(f"{self.origin}: " + " and ".join(f"{k} = {v!r}" for k, v in inner.items()) + " disagree")
        return values[0] if values else default

    def integer(self, *names: str, default: int | None = None) -> int | None:
        """A whole number of at least 0, or the default where no name is set."""
        value = self.get(*names, default=default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise SpecError(f"{self.origin}: {names[0]} must be a whole number of at least 0, got {value!r}")
        return value

    def need(self, concept: str, *names: str, default: int | None = None) -> int:
        """A whole number above 0 the model cannot be built without.

        Raises
        ------
        SpecError
            Naming the concept and every field that could have stated it.
        """
        value = self.integer(*names, default=default)
        if not value:
            raise SpecError(f"{self.origin}: no {concept} (looked for {', '.join(names)})")
        return value

    def flag(self, *names: str, default: bool = False) -> bool:
        """A true/false field."""
        value = self.get(*names, default=default)
        if not isinstance(value, bool):
            raise SpecError(f"{self.origin}: {names[0]} must be true or false, got {value!r}")
        return value

    def per_layer(self, name: str, num_layers: int) -> list[Any] | None:
        """A list with one entry a layer, or None where the field is absent or no list."""
        value = self.get(name)
        if not isinstance(value, list) or not value:
            return None
        if len(value) < num_layers:
            raise SpecError(f"{self.origin}: {name} has {len(value)} entries for {num_layers} layers")
        return value[:num_layers]

    def sequence(self, name: str) -> list[Any]:
        """A list, empty where the field is absent."""
        value = self.get(name, default=[])
        if not isinstance(value, list):
            raise SpecError(f"{self.origin}: {name} must be a list, got {value!r}")
        return value

    def refuse_beyond(self) -> None:
        """Refuse a configuration that sets a field of :data:`BEYOND`.

        Raises
        ------
        UnsupportedError
            Naming every missing concept with the field that asks for it.
        """
        missing = [f"{concept} ({name})" for name, concept in BEYOND.items() if self.get(name)]
        if missing:
            raise UnsupportedError(
                f"{self.origin}: this architecture needs {'; '.join(missing)}, which a model spec cannot state"
            )

    def unread(self) -> dict[str, Any]:
        """Keys with a value that were neither understood nor are known to be irrelevant."""
        both = self.outer | self.data
        return {key: both[key] for key in sorted(both) if key not in self._read | IRRELEVANT and both[key] is not None}
