"""The bibliography, from ``nfp_model.citations``."""

from __future__ import annotations

from page_markup import target, text

from nfp_model.citations import CITATIONS, Citation


def entry(citation: Citation) -> str:
    """One reference: title, place, address, what it is used for."""
    place = f" {text(citation.place)}." if citation.place else ""
    address = f" <{citation.url}>" if citation.url else ""
    return (
        f"{target('cite', citation.key)}**{text(citation.title)}**.{place}{address}\nUsed for: {text(citation.use)}.\n"
    )


def bibliography() -> str:
    """Every reference in order."""
    return "\n".join(entry(citation) for citation in CITATIONS.values())
