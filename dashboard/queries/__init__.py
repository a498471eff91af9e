"""Reads of a run, cached: the only room of the dashboard that asks `sae_core` for data.

Memory maps and tables are shared between sessions and never changed; a key is a path and its modification time, so
that a run that goes on is seen as it is. What a run does not have yet is None.
"""

from dashboard.queries.atom_map import MapPoints, concept_choices, joint_points, map_colors, map_points
from dashboard.queries.clusters import clusters
from dashboard.queries.comparing import (
    best_scores,
    energy_of_text,
    examples,
    families,
    family_of,
    family_pairs,
    family_summary,
    more_of_family,
    nearest_elsewhere,
    stage_energy,
)
from dashboard.queries.detecting import concept_accuracies, contexts, detectors, mean_accuracies
from dashboard.queries.finding import Ranking, concept_names, features, has_tokens, order, ranking
from dashboard.queries.labelling import copies_in_family, label_list, label_of, label_texts, labels
from dashboard.queries.live import import_reader, live_text
from dashboard.queries.one_feature import (
    FeatureView,
    feature_view,
    matches_of,
    nearest_within,
    often_together,
    passage_labels,
    peak_tokens,
)
from dashboard.queries.opening import EnsembleInfo, ensembles, open_run, runs
from dashboard.queries.pinned import pin_view
from dashboard.queries.reporting import report, report_html, report_json
from dashboard.queries.spurious import Bench, Evidence, bench, evidence, spurious, strongest_texts
from dashboard.queries.tables import (
    atoms,
    concepts,
    curves,
    evaluation,
    match_summary,
    matches,
    promoted,
    suggestions,
    summary,
)

__all__ = [
    "Bench",
    "EnsembleInfo",
    "Evidence",
    "FeatureView",
    "MapPoints",
    "Ranking",
    "atoms",
    "bench",
    "best_scores",
    "clusters",
    "concept_accuracies",
    "concept_choices",
    "concept_names",
    "concepts",
    "contexts",
    "copies_in_family",
    "curves",
    "detectors",
    "energy_of_text",
    "ensembles",
    "evaluation",
    "evidence",
    "examples",
    "families",
    "family_of",
    "family_pairs",
    "family_summary",
    "feature_view",
    "features",
    "has_tokens",
    "import_reader",
    "joint_points",
    "label_list",
    "label_of",
    "label_texts",
    "labels",
    "live_text",
    "map_colors",
    "map_points",
    "match_summary",
    "matches",
    "matches_of",
    "mean_accuracies",
    "more_of_family",
    "nearest_elsewhere",
    "nearest_within",
    "often_together",
    "open_run",
    "order",
    "passage_labels",
    "peak_tokens",
    "pin_view",
    "promoted",
    "ranking",
    "report",
    "report_html",
    "report_json",
    "runs",
    "spurious",
    "stage_energy",
    "strongest_texts",
    "suggestions",
    "summary",
]
