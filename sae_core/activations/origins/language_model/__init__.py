"""Activations of a language model that reads text."""

from sae_core.activations.origins.language_model.origin import LanguageModelOrigin as LanguageModelOrigin
