"""What speculation or diffusion gains per forward: acceptance models, drafting cost, tokens per forward.

Pure algorithm side: nothing here knows a GPU. The names below are the ones to import.
"""

from nfp_model.acceptance.chains import (
    AcceptanceModel,
    ConditionalAcceptance,
    ConstantAcceptance,
    LengthCurve,
    PrefixAcceptance,
    mtp_draft_counts,
    prefix_from_length,
)
from nfp_model.acceptance.diffusion import PUBLISHED_TOKENS_PER_FORWARD, PublishedTokensPerForward, TokensPerForward
from nfp_model.acceptance.drafting import DraftCost
from nfp_model.acceptance.reading import acceptance_from, read_acceptance
from nfp_model.acceptance.trees import TreeAcceptance, full_tree_tokens, medusa_heads, tree_tokens

__all__ = [
    "AcceptanceModel",
    "ConditionalAcceptance",
    "ConstantAcceptance",
    "DraftCost",
    "LengthCurve",
    "PUBLISHED_TOKENS_PER_FORWARD",
    "PrefixAcceptance",
    "PublishedTokensPerForward",
    "TokensPerForward",
    "TreeAcceptance",
    "acceptance_from",
    "full_tree_tokens",
    "medusa_heads",
    "mtp_draft_counts",
    "prefix_from_length",
    "read_acceptance",
    "tree_tokens",
]
