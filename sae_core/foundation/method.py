"""The declaration of an ensemble method; the methods themselves are the files of `sae_core.ensembles.methods`.

Settings, the command line and the dashboard read declarations, so neither this module nor a method imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from sae_core.foundation.settings.sections import RunSettings, SAESettings

Wiring = Literal["parallel", "residual"]
"""parallel: every member reads the activation; residual: each reads what those before it leave."""

RANDOM_STAGES = "stage 1 + random stages"
"""What the control of an ensemble of stages is called."""


@dataclass(frozen=True, slots=True)
class One:
    """One SAE that is to be trained.

    Attributes:
        sae: What it is.
        number: Its number among the SAEs that have settings of their own; None where these do not apply.
    """

    sae: SAESettings
    number: int | None = None

    @property
    def stages(self) -> int:
        """SAEs that are trained one after another."""
        return 1

    def ones(self) -> Iterator[One]:
        """Itself."""
        yield self


@dataclass(frozen=True, slots=True)
class Several:
    """An ensemble that is to be trained: its members, SAEs or ensembles, in order, and how they are wired."""

    members: tuple[One | Several, ...]
    wiring: Wiring = "parallel"

    def ones(self) -> Iterator[One]:
        """All its SAEs, those of the first member first."""
        for member in self.members:
            yield from member.ones()

    @property
    def stages(self) -> int:
        """SAEs that are trained one after another, each on what those before it leave; 1 where none does."""
        stages = [member.stages for member in self.members]
        return sum(stages) if self.in_turn else max(stages)

    @property
    def in_turn(self) -> bool:
        """Whether each member learns what those before it leave."""
        return self.wiring == "residual"

    def turns(self, *, pipelined: bool) -> int:
        """Passes over the activations that have to be made one after another."""
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


class Method:
    """An ensemble method. A subclass is the declaration; everything that differs between methods stands in it.

    Attributes:
        name: Its name in settings, and that of its folder.
        summary: What it trains, in a few words behind the name, for help; may be empty.
        title: What people read for the name.
        colour: Its colour in every chart; colours stay apart for colour-blind people, on light and dark pages.
        place: Methods are listed in this order.
        by_default: Whether it is trained unless settings say otherwise.
        is_reference: Whether it is the one SAE with which all others are compared.
        is_baseline: Whether it is one SAE with which ensembles are compared.
        size: For a baseline of an ensemble's size what it is, in words.
        needs_fixed_l0: Whether it can only be trained where the settings fix the number of active features.
        long_form_of: The method whose SAE it trains for as many steps as all stages of an ensemble take together.
        first_from: Methods that are trained before this one, whose SAE is taken where one that starts alike is needed.
        repeats_reference: Whether its members are trainings of the reference that differ in their seeds.
        control: The name of its control, stage 1 followed by random stages, if it is not made from its own name.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    title: ClassVar[str] = ""
    colour: ClassVar[str]
    place: ClassVar[int]
    by_default: ClassVar[bool] = False
    is_reference: ClassVar[bool] = False
    is_baseline: ClassVar[bool] = False
    size: ClassVar[str] = ""
    needs_fixed_l0: ClassVar[bool] = False
    long_form_of: ClassVar[str] = ""
    first_from: ClassVar[tuple[str, ...]] = ()
    repeats_reference: ClassVar[bool] = False
    control: ClassVar[str] = ""

    def layout(self, settings: RunSettings) -> Several:
        """The ensemble that it trains with some settings."""
        raise NotImplementedError

    @staticmethod
    def saes(settings: RunSettings) -> tuple[One, ...]:
        """As many SAEs as ``training.members`` says, each with the settings that it has of its own."""
        return tuple(One(settings.sae_of_member(number), number) for number in range(settings.training.members))

    def groups(self, settings: RunSettings) -> list[tuple[One, ...]]:
        """These SAEs divided into groups of ``training.inner``."""
        ones, inner = self.saes(settings), settings.training.inner
        return [ones[first : first + inner] for first in range(0, len(ones), inner)]

    def uneven(self, settings: RunSettings) -> str | None:
        """The fault that `groups` are not of equal size."""
        members, inner = settings.training.members, settings.training.inner
        if members % inner == 0:
            return None
        return f"training.members is {members}, but {self.name} takes a multiple of training.inner, which is {inner}"

    def fault(self, settings: RunSettings) -> str | None:
        """Why it cannot be trained with these settings, and the remedy, in a clause; None if it can."""
        return None

    def starts_with_one(self, settings: RunSettings) -> bool:
        """Whether its first member is one SAE of the settings' width, trained for one stage's steps."""
        first = self.layout(settings).members[0]
        return isinstance(first, One) and first.sae.width == settings.sae.width and not self.long_form_of

    def times_the_steps(self, settings: RunSettings) -> int:
        """For how many times the steps of a stage its SAEs are trained."""
        return settings.training.members if self.long_form_of else 1
