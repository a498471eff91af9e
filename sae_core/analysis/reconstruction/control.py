"""Measure the control of boosting: the trained first stage followed by random stages, beside the trained stages.

Any dictionary explains much of a residual that is close to noise. The variance that random stages explain, with the
same widths, equally many active features and one gain each, needs no training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sae_core.analysis.reconstruction.figures import ERRORS, EXPLAINED, LOSS
from sae_core.analysis.reconstruction.reconstruction import CHUNK, Moments, Read, Totals, explained_above, run_over
from sae_core.analysis.shared.bootstrap import ABOVE
from sae_core.analysis.shared.names_in_tables import untrained_share
from sae_core.analysis.shared.random_twin import random_stages
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.figures import Figure
from sae_core.foundation.methods import control_name
from sae_core.foundation.progress import Progress, Tick, silent

_TRAINED, _RANDOM = "trained", "random"


def controls_of(ensembles: Mapping[str, Ensemble], sample_BD: Tensor, *, seed: int = 0) -> dict[str, Ensemble]:
    """The controls of those ensembles that have later stages, by the ensembles' names (see `random_stages`)."""
    return {
        name: random_stages(ensemble, sample_BD, seed=seed)
        for name, ensemble in ensembles.items()
        if ensemble.is_staged
    }


def measure_controls(
    ensembles: Mapping[str, Ensemble],
    read: Read,
    tokens: int,
    sample: Callable[[], Tensor],
    *,
    document_T: NDArray[np.int64] | None = None,
    stretch: int = CHUNK,
    bootstrap: int = 200,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
) -> tuple[dict[str, Any], dict[str, Ensemble]]:
    """Measure the variance that boosted ensembles would explain with random later stages.

    Args:
        ensembles: Ensembles by name, on ``device``; ensembles without later stages are skipped.
        read: Returns held-out activations by row.
        tokens: Number of held-out activations.
        sample: Returns training activations [B, D] for setting up the random stages; called only if needed.
        document_T: The document of each activation, for the bootstrap; see `Moments`.
        stretch: Number of tokens that the bootstrap draws together if documents are unknown.
        bootstrap: Number of bootstrap samples for an interval.
        seed: Seed of the random stages and of the bootstrap.
        device: Where to encode.
        progress: Told about every block.

    Returns:
        (content of evaluation/control.json, the controls by the ensembles' names). Each control has the figures of
        reconstruction, also ``by_members``, the ``gains`` of the stages, ``trained_above`` (the interval of the
        difference to the trained stages, on the same draws) and ``untrained_share`` (see `untrained_share`).
    """
    boosted = {name: ensemble for name, ensemble in ensembles.items() if ensemble.is_staged}
    facts = {"tokens": tokens, "fitted_on": 0, "bootstrap": bootstrap, "seed": seed, "ensembles": {}}
    if not boosted:
        return facts, {}
    sample_BD = sample().to(device)
    controls = controls_of(boosted, sample_BD, seed=seed)
    everything = {**boosted, **{control_name(name): control for name, control in controls.items()}}
    moments = Moments(tokens, sample_BD.shape[1], document_T=document_T, stretch=stretch)

    def tell(done: int) -> None:
        progress(Tick("measure random stages", done, tokens))

    totals = run_over(everything, moments, read, tokens, device=device, tell=tell)
    found = {
        name: control_figures(totals[name], totals[control_name(name)], controls[name], bootstrap=bootstrap, seed=seed)
        for name in boosted
    }
    return {**facts, "drawn": moments.drawn, "fitted_on": len(sample_BD), "ensembles": found}, controls


def control_figures(trained: Totals, control: Totals, stages: Ensemble, *, bootstrap: int, seed: int) -> dict[str, Any]:
    """The figures of a control, beside those of the trained stages over the same activations.

    Args:
        trained: The totals of the ensemble.
        control: The totals of the control.
        stages: The control.
        bootstrap: Number of bootstrap samples for an interval.
        seed: Seed of the bootstrap.
    """
    figures = control.figures(bootstrap=bootstrap, seed=seed)
    whole = trained.figures(bootstrap=bootstrap, seed=seed)
    above = explained_above({_TRAINED: trained, _RANDOM: control}, bootstrap=bootstrap, seed=seed)
    first = whole["by_members"][0]["explained_variance"]
    return {
        **_kept(figures, *EXPLAINED, *ERRORS),
        "by_members": [{key: step[key] for key in ("members", "explained_variance")} for step in figures["by_members"]],
        "gains": stages.weights[1:],
        "trained": whole["explained_variance"],
        "trained_above": above[_TRAINED][f"explained_variance{ABOVE}"][_RANDOM],
        "untrained_share": untrained_share(first, figures["explained_variance"], whole["explained_variance"]),
    }


def _kept(own: Mapping[str, Any], *figures: Figure) -> dict[str, Any]:
    """The figures of a control to keep, with their intervals."""
    return {key: own[key] for each in figures for key in (each.path, f"{each.path}_interval") if key in own}


def with_loss(facts: Mapping[str, Any], recovered: Mapping[str, Any]) -> dict[str, Any]:
    """Add the loss that the controls recover to the content of evaluation/control.json.

    Args:
        facts: The result of `measure_controls`.
        recovered: The result of `measure_loss` for the controls, by the same names.
    """
    figures = dict(facts["ensembles"])
    for name, found in recovered["ensembles"].items():
        figures[name] = {**figures[name], **_kept(found, *LOSS)}
    return {**facts, "ensembles": figures}
