"""Which runs and ensembles there are, and what their manifests say of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from dashboard.shared.reads.cached import ENTRIES, modified
from sae_core.ensembles.manifest import Manifest, read_manifest
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.methods import title_of
from sae_core.foundation.numbering import feature_at, place_of
from sae_core.foundation.run import Run, find_runs


@dataclass(frozen=True, slots=True)
class EnsembleInfo:
    """What the manifest says of an ensemble."""

    name: str
    manifest: Manifest

    @property
    def method(self) -> str:
        """What trained it."""
        return self.manifest.method

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each member."""
        return self.manifest.widths

    @property
    def title(self) -> str:
        """What people read for its name."""
        return title_of(self.name)

    @property
    def members(self) -> int:
        """The number of members, J."""
        return len(self.widths)

    @property
    def features(self) -> int:
        """All features, M."""
        return sum(self.widths)

    @property
    def staged(self) -> bool:
        """Whether members are stages that encode what the ones before left."""
        return self.manifest.is_staged

    @property
    def member_word(self) -> str:
        """What a member is called."""
        return "stage" if self.staged else "member"

    def place(self, feature: int) -> tuple[int, int]:
        """(member, number within the member) of a feature."""
        place = place_of(int(feature), self.widths)
        return place.member, place.latent

    def feature(self, member: int, latent: int) -> int:
        """The inverse of `place`."""
        return feature_at(member, latent, self.widths)


def runs(root: Path) -> dict[str, Path]:
    """The runs at ``root`` by name."""
    return {path.name: path for path in find_runs(root)}


def open_run(path: Path) -> Run:
    """A run, opened anew if its manifest has changed."""
    return _run(str(path), modified(path / "run.json"))


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _run(path: str, modified: int) -> Run:
    return Run.open(Path(path))


def ensembles(run: Run) -> dict[str, EnsembleInfo]:
    """The trained ensembles by name, in the order of the settings."""
    infos = [_info(str(folder.manifest), modified(folder.manifest), folder.name) for folder in run.ensembles()]
    return {info.name: info for info in infos}


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _info(path: str, modified: int, name: str) -> EnsembleInfo:
    return EnsembleInfo(name, read_manifest(EnsembleFolder(Path(path).parent)))
