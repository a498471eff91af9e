"""The command line."""

from sae_core.cli.program import main

__all__ = ["main"]
