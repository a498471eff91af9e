"""What an indexed ensemble of a run has on disk, opened when it is first asked for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pandas as pd

from sae_core.activations.corpus import Corpus
from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.index.together import Together
from sae_core.analysis.similarity.nearest import Nearest
from sae_core.ensembles.manifest import Manifest, read_manifest
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.run import Run


class Opened:
    """The files of an ensemble.

    Attributes:
        run: The run.
        folder: The ensemble's folder in it.
        name: Name of the ensemble.
        author: Who writes its labels.
    """

    def __init__(self, run: Run, folder: EnsembleFolder, author: str) -> None:
        self.run, self.folder, self.name, self.author = run, folder, folder.name, author

    @cached_property
    def manifest(self) -> Manifest:
        """Method, wiring, weights and widths of the members."""
        return read_manifest(self.folder)

    @cached_property
    def index(self) -> ActivationIndex:
        """Every activation of every feature on the indexed tokens, memory-mapped."""
        return ActivationIndex.open(self.indexed(self.folder.index))

    @cached_property
    def corpus(self) -> Corpus:
        """The indexed tokens and their documents."""
        return Corpus.open(self.run)

    @cached_property
    def matches(self) -> pd.DataFrame:
        """Matches of all features across members, as `match_members` gives them."""
        return read_table(self.indexed(self.folder.matches))

    @cached_property
    def nearest(self) -> Nearest:
        """The nearest atoms of each feature within its member."""
        return Nearest.open(self.indexed(self.folder.nearest))

    @cached_property
    def counted_together(self) -> Together | None:
        """Features that fire on the same tokens; None where an older version did not count them."""
        path = self.folder.together
        return Together.open(path) if path.exists() else None

    @cached_property
    def promoted(self) -> pd.DataFrame | None:
        """Tokens that each feature promotes and suppresses; None where there is no language model."""
        return self._optional(self.folder.promoted)

    @cached_property
    def suggestions(self) -> pd.DataFrame | None:
        """A suggested label for each feature; None where an older version made none."""
        return self._optional(self.folder.suggestions)

    def indexed(self, path: Path) -> Path:
        """A file that indexing writes.

        Raises:
            UserError: If it is not there.
        """
        if not path.exists():
            raise UserError(f"{path} is not there yet; run `sae-ensemble index {self.run.path}`.")
        return path

    @staticmethod
    def _optional(path: Path) -> pd.DataFrame | None:
        return read_table(path) if path.exists() else None
