"""What the page says whatever the figures are: its questions, definitions and limits."""

from __future__ import annotations

from sae_core.analysis.shared.names_in_tables import CONTROL, SCALED, THRESHOLD
from sae_core.foundation.method import RANDOM_STAGES

ANSWERS = {
    "cost": "What did it cost?",
    "bought": "What did it buy?",
    "sure": "How sure are we?",
    "next": "What to do next",
}
"""The questions of the first page."""
DEFINITIONS = {
    "Explained variance": (
        "1 − E‖a−â‖² / (E‖a‖² − ‖E a‖²) over held-out tokens, streamed in float64; at most 1, and negative "
        "where the mean would do better. Per dimension: mean over dimensions of 1 − SSE/SST, as the paper "
        "prints it."
    ),
    "MSE": ("Mean over tokens of the squared error summed over dimensions."),
    RANDOM_STAGES.capitalize(): CONTROL,
    "L0": ("Features active on a token, summed over members; relative sparsity is its share of all features."),
    "Dead": ("Share of features that fire on none of the held-out tokens."),
    "Loss recovered": (
        "(CE with zero ablation − CE with the reconstruction) / (CE with zero ablation − CE of the model), with"
        " the reconstruction put back into the model; the same over mean ablation, which takes the mean activation for"
        " the zero and leaves less to recover, and with the KL divergence. Nats: CE with the reconstruction, a"
        " prediction."
    ),
    "Diverse": (
        f"Features whose cosine with every other one is below {THRESHOLD:g}; two copies both drop out. "
        "De-duplicated counts them once; redundant is the share that this drops."
    ),
    "Connectivity": ("Share of pairs of alive features that never fire on the same token; more tokens lower it."),
    "Stability": (
        "Mean best cosine with any atom of all others (pooled), with another member's atoms (MMCS), and of atoms "
        "matched one to one (those of a wider dictionary that are left over count as 0). Width alone raises all "
        "three, so random dictionaries of the same sizes stand beside them. Between boosted stages low values are "
        "intended: a later stage learns something else."
    ),
    "Detection": (
        "Accuracy with which the m features whose means differ most on training texts (logistic regression, L2,"
        " C = 1) tell on test texts whether a concept is present; half of both are positive, so guessing gives "
        "50 %. Standardised: features scaled to unit variance on the training texts first, also to choose them, so "
        f"that the weights of an ensemble do not count; methods are compared by these. {SCALED}"
    ),
    "Cost": (
        "Training arithmetic is counted (products of activations and weights; no AuxK, no optimiser), time and "
        "memory are measured. Time a token is the median of repeated encoding and reconstruction of one block "
        "of activations."
    ),
    "Recall": (
        "Share of true features that get an atom of their own at |cosine| ≥ 0.9. MCC is the sum of the |cosines| of "
        "atoms matched one to one over the number of true features, so one without an atom counts as 0. A dictionary "
        "narrower than the truth can reach in both no more than its width allows, which stands beside them. Precision "
        "is the share of atoms, without copies, that are true features; F1 that of the best latent for each true "
        "feature that fires."
    ),
    "S_SCR": (
        "(accuracy after ablation − biased) / (oracle − biased), on the target label of a balanced test set; it"
        " may be negative, and misleads by itself, so accuracies stand beside it."
    ),
    "Interval": (
        "95 %. Over seeds: of the mean, by Student's t. Of one run by bootstrap: of explained variance over held-out "
        "documents (older runs: stretches of 256 tokens), of the loss over documents, of detection over the modules or "
        "documents of the test texts, the same ones for all concepts (older runs: texts, concepts taken for "
        "independent), of true features over these (of precision over atoms). Differences are paired, but those of "
        "precision: both methods get the same seeds, documents, texts or true features at every draw."
    ),
}
LIMITS = (
    ("All figures are of one model, one place in it and one kind of text; nothing follows for others."),
    (
        "A bagged or boosted ensemble has as many times the parameters and active features of one SAE as it has"
        " members. Compare it with one SAE of the same width and L0 before crediting ensembling."
    ),
    ("Explained variance ranks nothing by itself: SAEs have been seen to find 9 % of the true features at 71 % of it."),
    (
        "Counted arithmetic leaves out AuxK, the optimiser and reading the language model; times are of the "
        "machine named below."
    ),
    ("On a CPU peak memory is that of the whole process, whatever it did before."),
)
