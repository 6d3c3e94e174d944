"""Sphinx: MyST pages, API from docstrings, pages generated from the spec files while building; warnings are errors."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from nfp_model import __version__

project = "nfp_model"
copyright = "the nfp_model contributors"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "generated_parts",
]

root_doc = "index"
exclude_patterns = ["_build", "_ext", "_templates", "validation/*.md"]  # included by validation.md
templates_path = ["_templates"]

html_theme = "alabaster"
html_title = "nfp_model"
html_theme_options = {
    "description": "How many decode positions are near-free, and why",
    "fixed_sidebar": True,
    "page_width": "1180px",
    "sidebar_width": "240px",
}
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

# Types stand in the numpydoc sections with their units and shapes; signatures show names and defaults.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "ignore-module-all": True}
autosummary_generate = True
autosummary_ignore_module_all = True
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Attributes of the same name in several classes are no fault, and their type links need none.
suppress_warnings = ["ref.python"]
