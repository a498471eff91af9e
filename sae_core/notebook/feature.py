"""A feature of a run: where it fires, what is like it, what it promotes and what people call it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.activations.stages import CORPUS
from sae_core.analysis.index.examples import Example, co_active, histogram, top_examples
from sae_core.foundation.colours import HIGHLIGHT, LESS, MORE
from sae_core.foundation.errors import UserError, short
from sae_core.foundation.numbering import Place
from sae_core.foundation.numbers import decimal, percent, whole
from sae_core.foundation.origin import Words
from sae_core.labels.opening import labels_of
from sae_core.labels.records import Edit, Label
from sae_core.notebook.look import shown
from sae_core.notebook.opened import Opened
from sae_core.report.html import Html, element
from sae_core.report.pieces.cards import chip, heading, member_chip, muted, section, tile, tiles, token_bars
from sae_core.report.pieces.histogram import histogram_html
from sae_core.report.pieces.tokens import legend, strips

EXAMPLES_SHOWN = 6
"""Examples of a feature that a notebook shows."""


class Examples(Sequence[Example]):
    """Examples in context; printed, the token with the peak activation stands between « and ».

    Where the rows are no tokens, an example is the row's text, or its name where it has none.
    """

    def __init__(self, found: Sequence[Example], peak: float) -> None:
        self._found, self._peak = list(found), peak

    @overload
    def __getitem__(self, number: int) -> Example: ...
    @overload
    def __getitem__(self, number: slice) -> list[Example]: ...
    def __getitem__(self, number: int | slice) -> Example | list[Example]:
        """One example, or some."""
        return self._found[number]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._found)

    def texts(self) -> list[str]:
        """The text of each example, the token with the peak activation between « and »."""
        return [_marked(example) for example in self._found]

    def __repr__(self) -> str:
        """One example a line: the activation, then the text."""
        return "\n".join(f"{one.peak:8.2f}  {text!r}" for one, text in zip(self._found, self.texts(), strict=True))

    def _repr_html_(self) -> str:
        return shown(_legend(self._found, self._peak), strips(self._found, self._peak))


def _legend(examples: Sequence[Example], peak: float) -> Html:
    return legend(peak, tokens=all(one.row is None for one in examples))


def _require_count(asked: str, noun: str, count: object, *, least: int = 1) -> None:
    """Refuse what is no number of things that can be given."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
        raise UserError(f"{asked} is asked for {short(repr(count))} {noun}; give a whole number of at least {least}.")


def _marked(example: Example) -> str:
    if example.row is not None:
        return example.row.text or example.row.name
    place = example.position - example.start
    return "".join(f"«{text}»" if number == place else text for number, text in enumerate(example.texts))


class Feature:
    """One feature of an indexed ensemble; ``run["bagged"].feature(17)`` gives it.

    Attributes:
        number: Its number in the ensemble.
        place: The same, with its member and its number within the member.
        ensemble: Name of the ensemble.
    """

    def __init__(self, owner: Opened, place: Place) -> None:
        self._owner, self.place = owner, place
        self.number, self.ensemble = place.feature, owner.name

    @property
    def staged(self) -> bool:
        """Whether its member is a stage, which reads what the stages before it leave."""
        return self._owner.manifest.is_staged

    @property
    def words(self) -> Words:
        """What the indexed rows are called: tokens, or what else the activations are of."""
        run = self._owner.run
        return run.settings.origin.words(run.facts(CORPUS.key))

    @cached_property
    def activations(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(Positions, ascending, in the indexed corpus; values) of all activations ≠ 0, α folded in."""
        return self._owner.index.feature(self.number)

    @property
    def count(self) -> int:
        """Number of indexed tokens on which it fires."""
        return len(self.activations[0])

    @property
    def density(self) -> float:
        """Share of the indexed tokens on which it fires."""
        return self.count / max(1, self._owner.index.tokens)

    @property
    def peak(self) -> float:
        """Its largest activation; 0 if it is dead."""
        return float(self.activations[1].max(initial=0.0))

    def examples(self, count: int = 10, *, window: int = 16) -> Examples:
        """The contexts in which it fires most strongly, the strongest first, at most one per passage.

        Args:
            count: Number of examples; there may be fewer.
            window: Tokens on either side.
        """
        _require_count("examples()", "examples", count)
        _require_count("examples()", "tokens on either side", window, least=0)
        found = top_examples(self._owner.index, self._owner.corpus, self.number, count=count, window=window)
        return Examples(found, self.peak)

    def histogram(self, bins: int = 40) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(edges [bins + 1], number of tokens [bins]) of its activations, from 0 to the largest."""
        _require_count("histogram()", "bins", bins)
        return histogram(self.activations[1], bins)

    def matches(self) -> pd.DataFrame:
        """The most similar feature of each other member, by the cosine of their atoms.

        Returns:
            Rows member, feature (in the ensemble's numbering), cosine, and matched: the feature of that member with
            which it is paired one to one; empty if the ensemble has one member.
        """
        table = self._owner.matches
        rows = table[table["feature"] == self.number]
        names = {
            "other_member": "member",
            "best_feature": "feature",
            "best_cosine": "cosine",
            "matched_feature": "matched",
        }
        return rows[list(names)].rename(columns=names).reset_index(drop=True)

    def neighbours(self, count: int = 8) -> pd.DataFrame:
        """The most similar features of its own member: feature and cosine, at most 8."""
        _require_count("neighbours()", "features", count)
        return self._owner.nearest.of(self.number, count)

    def together(self, count: int = 10) -> pd.DataFrame:
        """The features that fire on the same tokens: feature, together (tokens), share of its tokens, lift."""
        _require_count("together()", "features", count)
        counted = self._owner.counted_together
        if counted is not None:
            return counted.of(self.number, count)
        return co_active(self._owner.index, self.number, count)

    def promoted(self, count: int = 10, *, suppressed: bool = False) -> pd.DataFrame:
        """The tokens whose logit its atom raises most, or lowers most: token and score, in nats (logit lens).

        Empty where the activations come from no language model.
        """
        _require_count("promoted()", "tokens", count)
        table, side = self._owner.promoted, "suppressed" if suppressed else "promoted"
        row = None if table is None or self.number >= len(table) else table.iloc[self.number]
        tokens, scores = ([], []) if row is None else (list(row[side]), list(row[f"{side}_scores"]))
        return pd.DataFrame({"token": tokens[:count], "score": np.asarray(scores[:count], np.float64)})

    @property
    def suggestion(self) -> str:
        """A label made by a rule from the tokens, which nobody has checked; empty if there is none."""
        table = self._owner.suggestions
        found = None if table is None or self.number >= len(table) else table["suggestion"].iloc[self.number]
        return str(found) if found else ""

    @property
    def label(self) -> str:
        """What people call it; empty if it has no label. Setting it writes to the run's labels; "" removes it."""
        return self._written("label")

    @label.setter
    def label(self, text: str | None) -> None:
        self._write("label", text or "")

    @property
    def note(self) -> str:
        """Whatever people have written down about it. Setting it writes to the run's labels."""
        return self._written("note")

    @note.setter
    def note(self, text: str | None) -> None:
        self._write("note", text or "")

    def _written(self, field: str) -> str:
        found = labels_of(self._owner.run).get(self.ensemble, self.number)
        return str(found.values[field]) if found else ""

    def _write(self, field: str, text: str) -> None:
        """Change one field of the label and keep the others; the dashboard can undo it."""
        if not isinstance(text, str):
            raise UserError(f"A {field} is a text, not {short(repr(text))}.")
        run, author = self._owner.run, self._owner.author
        run.require_there()
        store = labels_of(run)
        found = store.get(self.ensemble, self.number)
        values = {**(found.values if found else {}), field: text}
        store.save([Edit(Label.by(author, self.ensemble, self.place, values))], author=author)

    def __repr__(self) -> str:
        """Its number, its place and its label."""
        label = f": {self.label!r}" if self.label else ""
        return f"<Feature {self.number} of {self.ensemble} ({self.place.within}){label}>"

    def _repr_html_(self) -> str:
        return _html(self)


def _html(feature: Feature) -> str:
    """A feature as its page in the dashboard shows it: figures, examples, histogram and what it promotes."""
    place, rows = feature.place, feature.words.rows
    chips = [member_chip(place.member, stage=feature.staged), chip(place.within, title="member and number within it")]
    if feature.label:
        chips.append(chip(feature.label, HIGHLIGHT, title="label"))
    elif feature.suggestion:
        chips.append(
            chip(f"suggested: {feature.suggestion}", title="Made by a rule from the tokens; nobody checked it")
        )
    facts = [
        tile("Density", percent(feature.density, 2), f"of the indexed {rows}"),
        tile("Fires on", whole(feature.count), f"indexed {rows}"),
        tile("Peak activation", decimal(feature.peak)),
    ]
    blocks = [heading(f"Feature {feature.number:,} of {feature.ensemble}", "", chips), tiles(facts)]
    if not feature.count:
        return shown(*blocks, element("p", muted(f"It is dead: it fires on none of the indexed {rows}."), kind="sae"))
    edges, counts = feature.histogram()
    examples = feature.examples(EXAMPLES_SHOWN)
    blocks += [_legend(examples, feature.peak), strips(examples, feature.peak, heading="Strongest")]
    blocks += [section("How strongly it fires"), histogram_html(edges.tolist(), counts.tolist(), words=feature.words)]
    sides = [(title, feature.promoted(suppressed=down), color) for title, down, color in _SIDES]
    largest = max((float(side["score"].abs().max()) for _, side, _ in sides if len(side)), default=0.0)
    for title, side, color in sides:
        if len(side):
            blocks.append(token_bars(title, side["token"].tolist(), side["score"].tolist(), color, largest=largest))
    return shown(*blocks)


_SIDES = (("Promoted", False, MORE), ("Suppressed", True, LESS))
