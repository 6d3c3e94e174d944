"""The ``nfp`` command: it prints, and computes nothing."""

from nfp_model.cli.app import main

__all__ = ["main"]
