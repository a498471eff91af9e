"""A run in a caller's hands: ``run["bagged"]`` is an ensemble of it, with its features, index and labels."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pandas as pd

from sae_core.foundation import run as runs
from sae_core.foundation.errors import UserError, short
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.numbering import feature_at, named, place_of
from sae_core.foundation.progress import Progress
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.labels.opening import labels_of
from sae_core.notebook.ensemble import Ensemble, load
from sae_core.notebook.feature import Feature
from sae_core.notebook.opened import Opened
from sae_core.notebook.watching import watched
from sae_core.runs import pipeline


class Run(runs.Run):
    """A run folder; see `sae_core.foundation.run.Run`. ``run["bagged"]`` gives one of its ensembles.

    Attributes:
        author: The name under which labels are written; by default that of the user.
    """

    def __init__(self, path: Path, settings: RunSettings) -> None:
        super().__init__(path, settings)
        self.author = _user()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open an existing run folder.

        Raises:
            UserError: If there is no run, or it was written by a newer version.
        """
        return super().open(Path(path))

    @classmethod
    def create(cls, path: str | os.PathLike[str], settings: RunSettings) -> Self:
        """Make a run folder, or open the one that is there if it has the same settings; nothing is trained yet.

        Raises:
            UserError: If the folder holds something else or a run with other settings.
        """
        return super().create(Path(path), settings)

    def __getitem__(self, name: str) -> RunEnsemble:
        """An ensemble of the run by its name.

        Raises:
            UserError: If there is none of that name.
        """
        names = list(self)
        if name not in names:
            known = f"it has {', '.join(names)}" if names else "none is trained yet"
            raise UserError(f"{self.path} has no ensemble {short(repr(name))}; {known}.")
        return RunEnsemble(self, self.ensemble(name), self.author)

    def train(self, *, progress: Progress | bool = True) -> None:
        """Gather activations and train every ensemble that the settings name; an interrupted training goes on.

        Args:
            progress: As in `sae_core.train`.

        Raises:
            UserError: If something that the settings name cannot be used.
            KeyboardInterrupt: After Ctrl-C; the next call goes on from there.
        """
        with watched(progress) as tell:
            pipeline.train(self, progress=tell)

    def prepare(self, *, progress: Progress | bool = True) -> None:
        """Index, match and map the trained ensembles: everything that features show. Raises as `train`."""
        with watched(progress) as tell:
            pipeline.prepare(self, progress=tell)

    def evaluate(self, *, progress: Progress | bool = True) -> None:
        """Make the evaluations of the run, which lie in its folder as JSON and tables. Raises as `train`."""
        with watched(progress) as tell:
            pipeline.evaluate(self, progress=tell)

    def labels_csv(self) -> str:
        """All labels of the run as CSV, as the dashboard exports them."""
        return labels_of(self).to_csv()

    def __iter__(self) -> Iterator[str]:
        """The names of the trained ensembles."""
        return iter([folder.name for folder in self.ensembles()])

    def __len__(self) -> int:
        """Number of trained ensembles."""
        return len(self.ensembles())

    def __bool__(self) -> bool:
        """A run without ensembles is a run, too."""
        return True


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name is known of the user, as in some containers
        return "python"


class RunEnsemble(Opened):
    """An ensemble of a run; its weights are read by `load`, and whatever else it has when it is first asked for."""

    def load(self, *, device: str = "auto") -> Ensemble:
        """The ensemble itself, ready for inference; raises as `sae_core.load`."""
        return load(self.folder.path, device=device)

    def feature(self, number: int | str) -> Feature:
        """A feature.

        Args:
            number: Its number in the ensemble, or its member and its number within it, as ``"1:6"``.

        Raises:
            UserError: If there is no such feature.
        """
        widths = self.manifest.widths
        if isinstance(number, str) and (place := named(number)) is not None:
            member, latent = place
            if member < len(widths) and latent < widths[member]:
                return Feature(self, place_of(feature_at(member, latent, widths), widths))
        elif hasattr(number, "__index__") and not isinstance(number, bool) and 0 <= int(number) < sum(widths):
            return Feature(self, place_of(int(number), widths))
        raise UserError(
            f"{self.name} has no feature {short(repr(number))}; it has features 0 to {sum(widths) - 1}, in "
            f"{len(widths)} members (such as '{len(widths) - 1}:0')."
        )

    def __len__(self) -> int:
        """Number of features, M."""
        return sum(self.manifest.widths)

    def __iter__(self) -> Iterator[Feature]:
        """All features, in the order of their numbers."""
        return (self.feature(number) for number in range(len(self)))

    @property
    def features(self) -> pd.DataFrame:
        """One row per feature: feature, member, latent, count, density, peak, stability, family, top_token …

        Raises:
            UserError: If the ensemble is not indexed.
        """
        return read_table(self.indexed(self.folder.atoms))

    def __repr__(self) -> str:
        """Its name, run and size."""
        return f"<{self.name} of {self.run.path}: {len(self.manifest.members)} members, {len(self):,} features>"

    def _repr_html_(self) -> str:
        return self.load(device="cpu")._repr_html_()
