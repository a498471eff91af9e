"""The embedded language model: where it lies in a wheel and in a checkout (data/README.md says what it is)."""

from __future__ import annotations

from pathlib import Path

import sae_core
from sae_core.foundation.errors import UserError

MODEL = "docstring-lm"
PACKAGE = Path(sae_core.__file__).resolve().parent


def model_folder() -> Path:
    """Folder of the embedded language model, in transformers format.

    Raises:
        UserError: If neither the installed package nor the checkout holds it.
    """
    places = (PACKAGE / "embedded_data" / MODEL, PACKAGE.parent / "data" / MODEL)
    for folder in places:
        if (folder / "config.json").exists():
            return folder
    raise UserError(
        f"The embedded language model is missing (looked in {places[0]} and {places[1]}); install the package again, "
        "or set model.name to a Hugging Face model."
    )
