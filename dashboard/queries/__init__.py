"""Reads of a run, cached: the only room of the dashboard that asks `sae_core` for data.

Memory maps and tables are shared between sessions and never changed; a key is a path and its modification time, so
that a run that goes on is seen as it is. What a run does not have yet is None.
"""

from dashboard.queries.atom_map import MapPoints, concept_choices, joint_points, map_colors, map_points
from dashboard.queries.detecting import contexts, detectors
from dashboard.queries.finding import (
    Ranking,
    clusters,
    concept_names,
    features,
    has_tokens,
    order,
    ranking,
)
from dashboard.queries.live import live_text
from dashboard.queries.one_feature import FeatureView, feature_view, often_together, peak_tokens
from dashboard.queries.opening import EnsembleInfo, ensembles, open_run, runs
from dashboard.queries.pinned import PinView, pin_view
from dashboard.queries.reporting import report, report_html, report_json
from dashboard.queries.spurious import Bench, Evidence, bench, evidence, spurious, strongest_texts
from dashboard.queries.tables import (
    atoms,
    concepts,
    corpus,
    curves,
    evaluation,
    index,
    label_of,
    label_table,
    labels,
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
    "PinView",
    "Ranking",
    "atoms",
    "bench",
    "clusters",
    "concept_choices",
    "concept_names",
    "concepts",
    "contexts",
    "corpus",
    "curves",
    "detectors",
    "ensembles",
    "evaluation",
    "evidence",
    "feature_view",
    "features",
    "has_tokens",
    "index",
    "joint_points",
    "label_of",
    "label_table",
    "labels",
    "live_text",
    "map_colors",
    "map_points",
    "match_summary",
    "matches",
    "often_together",
    "open_run",
    "order",
    "peak_tokens",
    "pin_view",
    "promoted",
    "ranking",
    "report",
    "report_html",
    "report_json",
    "runs",
    "spurious",
    "strongest_texts",
    "suggestions",
    "summary",
]
