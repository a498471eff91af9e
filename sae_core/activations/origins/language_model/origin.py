"""The origin of activations that a language model has while it reads text: a row is a token in a passage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sae_core.foundation.origin import Origin
from sae_core.foundation.progress import Progress

if TYPE_CHECKING:
    from sae_core.activations.origins.language_model.streaming import StreamedActivations
    from sae_core.foundation.run import Run
    from sae_core.foundation.settings.run_settings import RunSettings

_PLACES = {"residual": "residual stream after", "mlp": "MLP output of", "attention": "attention output of"}


class LanguageModelOrigin(Origin):
    """Documents are cut into passages, whose tokens are the rows; the settings ``text`` and ``model`` say which."""

    kind: Literal["language_model"] = "language_model"
    """Activations are those of a language model that reads text, as the settings text and model say."""
    title: ClassVar[str] = "a language model"
    by_default: ClassVar[bool] = True
    reads_text: ClassVar[bool] = True

    def described(self, settings: RunSettings) -> str:
        """The place in the model, and the text."""
        model, source = settings.model, settings.text.source
        name = "the embedded language model" if model.is_embedded else model.name
        text = "Python docstrings (the embedded corpus)" if settings.text.is_embedded else source
        place = f"{_PLACES.get(model.site, '')} block {model.layer}"
        if model.site not in _PLACES:
            place = f"output of {model.site.replace('*', str(model.layer))}"
        return f"the {place} of {name}, reading {text}"

    def about(self, settings: RunSettings, facts: Mapping[str, Any]) -> tuple[str, str]:
        """How many tokens were asked for and got."""
        from sae_core.activations.origins.text.asked import asked_and_got, what_is_short

        return asked_and_got(settings, facts), what_is_short(settings, facts)

    def labels_texts(self, settings: RunSettings) -> bool:
        """Whether the text is the embedded corpus, whose documents say what they are."""
        return settings.text.is_embedded

    def decided_by(self, settings: RunSettings) -> Any:
        """Text and model."""
        return settings.model_dump(mode="json", include={"text", "model"})

    def shared_by(self, settings: RunSettings) -> Any:
        """Text and model without the place: one pass of the model serves runs with several places."""
        return settings.model_dump(mode="json", include={"text": True, "model": True}, exclude={"model": _PLACE})

    def gather(self, runs: Sequence[Run], progress: Progress) -> None:
        """Read text, cut it into passages and let the model read them once for all runs."""
        from sae_core.activations.origins.language_model.gathering import gather

        gather(runs, progress)

    def stream(self, run: Run, cache: Callable[[], Any], device: str) -> StreamedActivations:
        """The activations of all passages, which the model reads anew in every pass."""
        from sae_core.activations.origins.language_model.gathering import streamed

        return streamed(run, cache(), device)


_PLACE = {"layer", "site"}
