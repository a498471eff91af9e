"""The embedded language model: where it lies in a wheel and in a checkout (data/README.md says what it is)."""

from __future__ import annotations

from pathlib import Path

from sae_core.errors import UserError

MODEL = "docstring-lm"


def model_folder() -> Path:
    """Folder of the embedded language model, in transformers format.

    Raises:
        UserError: If neither the installed package nor the checkout holds it.
    """
    package = Path(__file__).resolve().parents[2]
    places = (package / "embedded_data" / MODEL, package.parent / "data" / MODEL)
    for folder in places:
        if (folder / "config.json").exists():
            return folder
    raise UserError(
        f"The embedded language model is missing (looked in {places[0]} and {places[1]}); install the package again, "
        "or set model.name to a Hugging Face model."
    )
