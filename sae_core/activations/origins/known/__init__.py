"""Activations drawn from a known dictionary."""

from sae_core.activations.origins.known.origin import Known as Known
