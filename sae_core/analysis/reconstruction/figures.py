"""The figures of reconstruction: what is explained, how sparsely, what the model loses, and what random stages do."""

from __future__ import annotations

from sae_core.foundation.figures import Figure, of_control, percents, plain, spec, titled
from sae_core.foundation.method import RANDOM_STAGES
from sae_core.foundation.numbers import whole

EXPLAINED_VARIANCE = Figure(
    key="reconstruction.explained_variance",
    title="Explained variance",
    definition="1 − E‖a−â‖² / (E‖a‖² − ‖E a‖²) on held-out tokens, over all dimensions together",
    style=percents(2),
    interval="explained_variance_interval",
    better="higher",
    row="explained_variance",
    ends=True,
    line="explained variance",
    terminal=spec(".4f"),
    overview="Explained variance",
    swept=True,
)
PER_DIMENSION = Figure(
    key="reconstruction.explained_variance_per_dimension",
    title="per dimension",
    definition="Mean over dimensions of each one's own explained variance, 1 − SSE/SST, as the paper prints it",
    style=percents(2),
    better="higher",
    row="explained_variance_per_dimension",
    line="  per dimension",
    terminal=spec(".4f"),
)
MEMBERS = Figure(key="reconstruction.members", row="members")
FEATURES = Figure(
    key="reconstruction.features",
    title="Features",
    definition="Features of all members together",
    style=whole,
    row="features",
)
MSE = Figure(
    key="reconstruction.mse",
    title="MSE",
    definition="Mean over tokens of the squared error summed over dimensions",
    style=plain(2),
    better="lower",
    row="mse",
    line="MSE",
    terminal=spec(".4g"),
    overview="MSE",
    swept=True,
)
L0 = Figure(
    key="reconstruction.l0",
    title="L0",
    definition="Features active on a token, summed over members",
    style=plain(1),
    better="lower",
    row="l0",
    line="L0",
    terminal=spec(".1f"),
    overview="L0",
    swept=True,
)
RELATIVE_SPARSITY = Figure(
    key="reconstruction.relative_sparsity",
    title="Relative sparsity",
    definition="L0 as a share of all features",
    style=percents(2),
    share=True,
    better="lower",
)
DEAD = Figure(
    key="reconstruction.dead_fraction",
    title="Dead",
    definition="Share of features that fire on none of these tokens",
    style=percents(),
    share=True,
    better="lower",
    row="dead_fraction",
    line="dead in {evaluation_tokens:,} tokens",
    terminal=spec(".1%"),
    overview="Dead",
    swept=True,
)
EXPLAINED = (MEMBERS, FEATURES, EXPLAINED_VARIANCE, PER_DIMENSION)
ERRORS = (MSE, L0, RELATIVE_SPARSITY, Figure(key="reconstruction.dead"), DEAD)

LOSS_RECOVERED = Figure(
    key="loss.loss_recovered",
    title="Loss recovered",
    definition="(CE with zero ablation − CE with the reconstruction) / (CE with zero ablation − CE of the model)",
    style=percents(2),
    interval="loss_recovered_interval",
    better="higher",
    row="loss_recovered",
    ends=True,
    line="loss recovered",
    terminal=spec(".4f"),
    overview="Loss recovered",
    swept=True,
)
OVER_MEAN = Figure(
    key="loss.loss_recovered_mean",
    title="over mean ablation",
    definition="The same with activations set to their mean for the reference, which leaves less to recover",
    style=percents(2),
    interval="loss_recovered_mean_interval",
    better="higher",
    row="loss_recovered_mean",
    line="  over mean ablation",
    terminal=spec(".4f"),
    swept=True,
)
NATS = Figure(
    key="loss.cross_entropy",
    title="Nats",
    definition="CE of the next token with the reconstruction, in nats a prediction",
    style=plain(3),
    better="lower",
    row="cross_entropy",
    line="  nats{of_model}",
    terminal=spec(".3f"),
    overview="Nats",
)
KL_RECOVERED = Figure(
    key="loss.kl_recovered",
    title="KL recovered",
    definition="1 − KL with the reconstruction / KL with zero ablation, to the model's predictions",
    style=percents(2),
    better="higher",
)
LOSS = (*(LOSS_RECOVERED, KL_RECOVERED, OVER_MEAN, Figure(key="loss.kl_recovered_mean"), NATS, Figure(key="loss.kl")),)

CONTROL_EXPLAINED = of_control(EXPLAINED_VARIANCE, line=f"  {RANDOM_STAGES}", swept=True)
CONTROL = (
    CONTROL_EXPLAINED,
    Figure(
        key="control.untrained_share",
        row="control_untrained_share",
        line="  untrained share of gain",
        terminal=spec(".0%"),
        better="lower",
        swept=True,
    ),
    *(of_control(figure, ends=False) for figure in (LOSS_RECOVERED, OVER_MEAN, NATS, MSE, L0, DEAD)),
)
"""Of stage 1 and random stages, in the place of a boosted ensemble."""
TABLE = titled(
    *(EXPLAINED_VARIANCE, PER_DIMENSION, MSE, L0, RELATIVE_SPARSITY, DEAD),
    *(LOSS_RECOVERED, OVER_MEAN, NATS, KL_RECOVERED),
)
"""What the table of reconstruction shows, of ensembles and of their controls."""
