"""Features of a run in the JSON that SAEDashboard writes and Neuronpedia reads.

The keys are those of SAEDashboard's ``NeuronpediaDashboardBatch``. What is not measured here (alignment with neurons,
correlated neurons, the histogram of logits) is left empty, as it may be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sae_core.activations.corpus import Corpus
from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.index.examples import Example, histogram, quantile_examples, top_examples
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.numbering import require_feature
from sae_core.foundation.run import Run

TOP, PER_QUANTILE, QUANTILES, PROMOTED, BINS = 20, 5, 5, 10, 40
_TOP_BIN = {"bin_min": -1.0, "bin_contains": -1.0}
"""How that format marks the strongest examples, which are of no interval."""
_NOT_MEASURED = (
    *(f"neuron_alignment_{part}" for part in ("indices", "values", "l1")),
    *(f"correlated_{kind}_{part}" for kind in ("neurons", "features") for part in ("indices", "l1", "pearson")),
    *("logits_hist_data_bar_heights", "logits_hist_data_bar_values", "decoder_weights_dist", "vector"),
)


def neuronpedia_batch(
    run: Run,
    ensemble: str,
    features: Sequence[int],
    *,
    model_id: str | None = None,
    sae_set: str | None = None,
    window: int = 32,
) -> dict[str, Any]:
    """The features of an ensemble, as plain values for JSON.

    Args:
        run: An indexed run whose rows are tokens.
        ensemble: Name of the ensemble.
        features: Numbers of the features in the ensemble.
        model_id: What Neuronpedia calls the model; by default the model's name.
        sae_set: What it calls the set of SAEs; by default the run and the ensemble.
        window: Tokens on either side of an example's peak.

    Raises:
        UserError: If the rows are no tokens, the ensemble is not indexed, or a feature is not there or named twice.
    """
    run.settings.origin.require_text(run)
    folder = run.ensemble(ensemble)
    if not folder.index.exists():
        raise UserError(f"{ensemble} of {run.path} is not indexed; run sae-ensemble index first.")
    if twice := [feature for place, feature in enumerate(features) if feature in features[:place]]:
        raise UserError(f"Feature {twice[0]} is named twice; name it once.")
    index, corpus, promoted = ActivationIndex.open(folder.index), Corpus.open(run), _promoted(folder)
    for feature in features:
        require_feature(feature, index.features)
    settings = run.settings
    facts = {
        "n_prompts_total": len(corpus.offsets) - 1,
        "n_tokens_in_prompt": settings.model.context,
        "dataset": settings.text.source,
    }
    return {
        "model_id": model_id or settings.model.name,
        "layer": settings.model.layer,
        "sae_set": sae_set or f"{run.name}-{ensemble}",
        "sae_id_suffix": None,
        "features": [{**_feature(index, corpus, promoted, feature, window), **facts} for feature in features],
    }


def _feature(
    index: ActivationIndex, corpus: Corpus, promoted: pd.DataFrame | None, feature: int, window: int
) -> dict[str, Any]:
    values = index.feature(feature)[1]
    edges, counts = histogram(values, BINS)
    peak = float(values.max(initial=0.0))
    top = top_examples(index, corpus, feature, count=TOP, window=window)
    examples = [{**_TOP_BIN, "bin_max": _rounded(peak), **_example(one)} for one in top]
    bands = quantile_examples(index, corpus, feature, quantiles=QUANTILES, per_quantile=PER_QUANTILE, window=window)
    for band in bands:
        interval = {"bin_min": _rounded(band.low), "bin_max": _rounded(band.high), "bin_contains": 1 / QUANTILES}
        examples += [{**interval, **_example(one)} for one in band.examples]
    return {
        "feature_index": feature,
        **{key: [] for key in _NOT_MEASURED},
        **_logits(promoted, feature),
        "frac_nonzero": len(values) / max(1, index.tokens),
        "freq_hist_data_bar_values": [_rounded(value) for value in (edges[:-1] + edges[1:]) / 2],
        "freq_hist_data_bar_heights": counts.tolist(),
        "activations": examples,
    }


def _example(one: Example) -> dict[str, Any]:
    return {
        "tokens": one.texts,
        "values": [_rounded(value) for value in one.values],
        "qualifying_token_index": one.position - one.start,
    }


def _logits(promoted: pd.DataFrame | None, feature: int) -> dict[str, list[Any]]:
    sides = {"pos": "promoted", "neg": "suppressed"}
    if promoted is None:
        return {f"{short}_{part}": [] for short in sides for part in ("str", "values")}
    row = promoted.iloc[feature]
    return {
        **{f"{short}_str": list(row[side])[:PROMOTED] for short, side in sides.items()},
        **{
            f"{short}_values": [_rounded(value) for value in row[f"{side}_scores"][:PROMOTED]]
            for short, side in sides.items()
        },
    }


def _promoted(folder: EnsembleFolder) -> pd.DataFrame | None:
    return read_table(folder.promoted) if folder.promoted.exists() else None


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 3)
