"""Define the declaration of an ensemble method; each file of `sae_core.ensembles.methods` declares one method.

Settings, the command line and the dashboard read declarations, so neither this module nor a method imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from sae_core.foundation.settings.run_settings import RunSettings, SAESettings

Wiring = Literal["parallel", "residual"]
"""parallel: every member reads the activation; residual: every member reads the residual of the earlier members."""

RANDOM_STAGES = "stage 1 + random stages"
"""The name of the control of an ensemble of stages."""


@dataclass(frozen=True, slots=True)
class One:
    """One SAE to train.

    Attributes:
        sae: The settings of the SAE.
        number: The SAE's number among those with their own settings; None if such settings do not apply.
        biased: Whether the SAE has a decoder bias.
    """

    sae: SAESettings
    number: int | None = None
    biased: bool = True

    @property
    def stages(self) -> int:
        """SAEs that are trained one after another."""
        return 1

    def ones(self) -> Iterator[One]:
        """Itself."""
        yield self


@dataclass(frozen=True, slots=True)
class Several:
    """An ensemble to train: its members (SAEs or ensembles) in order, and their wiring."""

    members: tuple[One | Several, ...]
    wiring: Wiring = "parallel"

    def ones(self) -> Iterator[One]:
        """Yield all SAEs, those of the first member first."""
        for member in self.members:
            yield from member.ones()

    @property
    def stages(self) -> int:
        """Number of SAEs to train one after another, each on the residual of the earlier ones; 1 without residuals."""
        stages = [member.stages for member in self.members]
        return sum(stages) if self.in_turn else max(stages)

    @property
    def in_turn(self) -> bool:
        """Whether each member learns the residual of the earlier members."""
        return self.wiring == "residual"

    def turns(self, *, pipelined: bool) -> int:
        """Number of passes over the activations, one after another."""
        if self.is_flat and (pipelined or not self.in_turn):
            return 1
        # Stages that are ensembles are never pipelined, nor is what they hold.
        inner = [
            member.turns(pipelined=pipelined and not self.in_turn) if isinstance(member, Several) else 1
            for member in self.members
        ]
        return sum(inner) if self.in_turn else max(inner)

    @property
    def is_flat(self) -> bool:
        """Whether all members are SAEs."""
        return all(isinstance(member, One) for member in self.members)


class Given(Several):
    """A member that is not trained: the ensemble of the run that settings name (``training.boost_from``)."""

    def __init__(self) -> None:
        super().__init__(())

    @property
    def stages(self) -> int:
        """One, which others follow."""
        return 1

    def turns(self, *, pipelined: bool) -> int:
        """No pass over the activations."""
        return 0


class Method:
    """An ensemble method. A subclass declares everything that differs between methods.

    Attributes:
        name: The method's name in settings and as a folder.
        summary: A few words about the trained ensemble, for help; may be empty.
        title: The method's name for people.
        colour: The method's colour in every chart, distinct for colour-blind people on light and dark pages.
        place: The position in lists of methods.
        by_default: Whether the default settings train the method.
        is_given: Whether the members are SAEs that were brought in, so that the method trains nothing.
        extends_given: Whether the first member is an ensemble that was brought in, whose residual the others learn.
        is_reference: Whether the method is the one SAE with which all others are compared.
        is_baseline: Whether the method is one SAE with which ensembles are compared.
        size: For a baseline of an ensemble's size, a description in words.
        needs_fixed_l0: Whether the method needs settings that fix the number of active features.
        long_form_of: The method whose SAE this method trains for as many steps as all stages of an ensemble together.
        first_from: Methods that are trained before this one, to reuse their SAE if it starts alike.
        repeats_reference: Whether the members are trainings of the reference with different seeds.
        control: The name of the control (stage 1 followed by random stages), if it is not made from the method's name.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    title: ClassVar[str] = ""
    colour: ClassVar[str]
    place: ClassVar[int]
    by_default: ClassVar[bool] = False
    is_given: ClassVar[bool] = False
    extends_given: ClassVar[bool] = False
    is_reference: ClassVar[bool] = False
    is_baseline: ClassVar[bool] = False
    size: ClassVar[str] = ""
    needs_fixed_l0: ClassVar[bool] = False
    long_form_of: ClassVar[str] = ""
    first_from: ClassVar[tuple[str, ...]] = ()
    repeats_reference: ClassVar[bool] = False
    control: ClassVar[str] = ""

    def layout(self, settings: RunSettings) -> Several:
        """Return the ensemble that the method trains with some settings."""
        raise NotImplementedError

    @staticmethod
    def saes(settings: RunSettings) -> tuple[One, ...]:
        """Return ``training.members`` SAEs, each with its own settings."""
        return tuple(One(settings.sae_of_member(number), number) for number in range(settings.training.members))

    def groups(self, settings: RunSettings) -> list[tuple[One, ...]]:
        """These SAEs divided into groups of ``training.inner``."""
        ones, inner = self.saes(settings), settings.training.inner
        return [ones[first : first + inner] for first in range(0, len(ones), inner)]

    def uneven(self, settings: RunSettings) -> str | None:
        """Say that `groups` are not of equal size; None if they are."""
        members, inner = settings.training.members, settings.training.inner
        if members % inner == 0:
            return None
        return f"training.members is {members}, but {self.name} takes a multiple of training.inner, which is {inner}"

    def fault(self, settings: RunSettings) -> str | None:
        """Say why the method cannot be trained with these settings, and the remedy, in a clause; None if it can."""
        return None

    def starts_with_one(self, settings: RunSettings) -> bool:
        """Whether the first member is one SAE of the settings' width, trained for the steps of one stage."""
        first = self.layout(settings).members[0]
        return isinstance(first, One) and first.sae.width == settings.sae.width and not self.long_form_of

    def times_the_steps(self, settings: RunSettings) -> int:
        """The steps of the method's SAEs, in multiples of a stage's steps."""
        return settings.training.members if self.long_form_of else 1
