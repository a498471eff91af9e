"""Activations that lie in files as arrays, of whatever they are: images, sensors, texts, molecules."""

from sae_core.activations.origins.arrays.origin import Arrays as Arrays
