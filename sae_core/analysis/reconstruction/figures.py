"""The figures of reconstruction: what is explained, how sparsely, what the model loses, and what random stages do."""

from __future__ import annotations

from functools import partial

from sae_core.foundation.figures import Figure, of_control, percents, plain, spec, titled
from sae_core.foundation.method import RANDOM_STAGES
from sae_core.foundation.numbers import whole

_explained = partial(Figure, style=percents(2), better="higher", terminal=spec(".4f"))
EXPLAINED_VARIANCE = _explained(
    "reconstruction.explained_variance",
    "Explained variance",
    "1 − E‖a−â‖² / (E‖a‖² − ‖E a‖²) on held-out tokens, over all dimensions together",
    ends=True,
    line="explained variance",
    overview="Explained variance",
    swept=True,
    column="explained variance",
    said="explained variance",
    compared=True,
)
PER_DIMENSION = _explained(
    "reconstruction.explained_variance_per_dimension",
    "per dimension",
    "Mean over dimensions of each one's own explained variance, 1 − SSE/SST, as the paper prints it",
    line="  per dimension",
    said="per dimension",
)
MEMBERS = Figure("reconstruction.members", row="members")
FEATURES = Figure("reconstruction.features", "Features", "Features of all members together", whole, row="features")
MSE = Figure(
    "reconstruction.mse",
    "MSE",
    "Mean over tokens of the squared error summed over dimensions",
    plain(2),
    better="lower",
    line="MSE",
    terminal=spec(".4g"),
    overview="MSE",
    swept=True,
)
L0 = Figure(
    "reconstruction.l0",
    "L0",
    "Features active on a token, summed over members",
    plain(1),
    better="lower",
    line="L0",
    terminal=spec(".1f"),
    overview="L0",
    swept=True,
    column="L0",
)
RELATIVE_SPARSITY = Figure(
    *("reconstruction.relative_sparsity", "Relative sparsity", "L0 as a share of all features", percents(2)),
    share=True,
    better="lower",
)
DEAD = Figure(
    "reconstruction.dead_fraction",
    "Dead",
    "Share of features that fire on none of these tokens",
    percents(),
    share=True,
    better="lower",
    line="dead in {evaluation_tokens:,} tokens",
    terminal=spec(".1%"),
    overview="Dead",
    swept=True,
    column="dead",
)
EXPLAINED = (MEMBERS, FEATURES, EXPLAINED_VARIANCE, PER_DIMENSION)
ERRORS = (MSE, L0, RELATIVE_SPARSITY, Figure("reconstruction.dead"), DEAD)

LOSS_RECOVERED = _explained(
    "loss.loss_recovered",
    "Loss recovered",
    "(CE with zero ablation − CE with the reconstruction) / (CE with zero ablation − CE of the model)",
    ends=True,
    line="loss recovered",
    overview="Loss recovered",
    swept=True,
    said="loss recovered",
    compared=True,
)
OVER_MEAN = _explained(
    "loss.loss_recovered_mean",
    "over mean ablation",
    "The same with activations set to their mean for the reference, which leaves less to recover",
    line="  over mean ablation",
    swept=True,
)
NATS = Figure(
    "loss.cross_entropy",
    "Nats",
    "CE of the next token with the reconstruction, in nats a prediction",
    plain(3),
    better="lower",
    line="  nats{of_model}",
    terminal=spec(".3f"),
    overview="Nats",
)
KL_RECOVERED = _explained(
    "loss.kl_recovered",
    "KL recovered",
    "1 − KL with the reconstruction / KL with zero ablation, to the model's predictions",
    said="KL recovered",
)
LOSS = (LOSS_RECOVERED, KL_RECOVERED, OVER_MEAN, Figure("loss.kl_recovered_mean"), NATS, Figure("loss.kl"))

CONTROL_EXPLAINED = of_control(EXPLAINED_VARIANCE, line=f"  {RANDOM_STAGES}", swept=True, column=RANDOM_STAGES)
CONTROL = (
    CONTROL_EXPLAINED,
    Figure(
        "control.untrained_share",
        row="control_untrained_share",
        line="  untrained share of gain",
        terminal=spec(".0%"),
        better="lower",
        swept=True,
    ),
    *(of_control(figure, ends=False) for figure in (LOSS_RECOVERED, OVER_MEAN, NATS, *ERRORS) if figure.row),
)
"""Of stage 1 and random stages, in the place of a boosted ensemble."""
TABLE = titled(
    *(EXPLAINED_VARIANCE, PER_DIMENSION, *ERRORS),
    *(LOSS_RECOVERED, OVER_MEAN, NATS, KL_RECOVERED),
)
"""What the table of reconstruction shows, of ensembles and of their controls."""
