"""Bagged and boosted ensembles of sparse autoencoders: training, evaluation and what people look at.

The public face: ``__init__.pyi`` names what stands here, and each name is imported when it is first used.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
