"""Settings of a run, validated: one class per concern, one docstring per setting (also the command line's help)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator

from sae_core.foundation.errors import UserError, short
from sae_core.foundation.methods import EXPANDED, LONG, METHODS, Method
from sae_core.foundation.settings import bounds
from sae_core.foundation.settings.toml_files import read_toml

Architecture = Literal["relu", "topk", "batchtopk", "jumprelu"]
Cut = Literal["passages", "first"]
Site = Literal["residual", "mlp", "attention"]
Kernels = Literal["auto", "plain", "fast"]
Residuals = Literal["auto", "cached", "recomputed"]
SELECTING: tuple[Architecture, ...] = ("topk", "batchtopk")
"""Architectures whose L0 is set."""
PUBLIC_SETS = ("bias_in_bios", "amazon_reviews", "github_code", "ag_news", "europarl")
"""Labelled data sets that can be named; `analysis.concepts.public_tasks` describes them."""
PUBLIC_TEXTS = 4000  # training texts of a concept of such a data set, as in SAEBench (Karvonen et al. 2025)
EMBEDDED = "embedded"
"""Source and model name that mean the ones that come with the package."""
KNOWN = "known"
"""Source and model name that mean activations drawn from a known dictionary."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TextSettings(_Settings):
    """Where the text comes from."""

    source: bounds.Name = EMBEDDED
    """embedded, a local file (.txt, .jsonl, .csv, .parquet) or the id of a hub data set."""
    text_column: bounds.Name = "text"
    """Column or field that holds the text."""
    split: bounds.Name = "train"
    """Split of a hub data set."""
    subset: bounds.Name | None = None
    """Configuration name of a hub data set."""
    max_documents: bounds.Positive | None = None
    """Read at most this many documents."""
    cut: Cut = "passages"
    """passages (a text longer than the context becomes several passages) or first (only its first tokens are read)."""


class ModelSettings(_Settings):
    """Which activations are read."""

    name: bounds.Name = EMBEDDED
    """embedded, a local folder in transformers format, a hub id, or transformer-lens: and a name of TransformerLens."""
    revision: bounds.Name | None = None
    """Revision of a hub model."""
    layer: bounds.Natural = 4
    """Index of the block whose output is read; 0 is the first block."""
    site: Site = "residual"
    """residual (the block's output), mlp or attention (what that part adds to the residual stream)."""
    context: bounds.Positive = 256
    """Tokens of a passage of text, at most, with the special ones around it."""
    batch_size: bounds.Positive = 32
    """Passages in one forward pass."""


class DataSettings(_Settings):
    """How many activations are used for what."""

    train_tokens: bounds.Tokens = 400_000
    """Different token activations gathered for training."""
    index_tokens: bounds.Tokens = 150_000
    """Token activations that are indexed, and so browsable; they are the first of the corpus."""
    evaluation_tokens: bounds.Tokens = 50_000
    """Held-out token activations on which reconstruction is measured."""
    storage: Literal["disk", "stream"] = "disk"
    """disk (training activations are gathered once) or stream (every pass runs the model again and fills no disk)."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Number format of the activation cache."""
    shuffle: Literal["auto", "memory", "disk"] = "auto"
    """memory (rows are drawn from all over the cache), disk (they are first dealt to random piles on disk, which are
    then read one after another) or auto (disk if the cache is larger than the free memory and the disk has room)."""


class SAESettings(_Settings):
    """One sparse autoencoder."""

    architecture: Architecture = "topk"
    """relu (with an L1 penalty), topk, batchtopk or jumprelu (with an L0 penalty)."""
    width: bounds.Positive = 2048
    """Features of one member, n."""
    k: bounds.Positive = 16
    """Active features per token, for topk and (on average) batchtopk."""
    sparsity: bounds.Weight = 1.0
    """Weight of the sparsity penalty, for relu and jumprelu, on activations scaled to E‖a‖² = d."""
    aux_coefficient: bounds.Weight = 1 / 32
    """Weight of AuxK, which lets dead features explain what is left (Gao et al. 2024, appendix A.2)."""
    dead_after_tokens: bounds.Tokens = 100_000
    """A feature that fired on none of this many tokens counts as dead in training."""
    bandwidth: bounds.Size = 0.03
    """Width of JumpReLU's straight-through kernel, on scaled activations (Rajamanoharan et al. 2024)."""
    initial_threshold: bounds.Size = 0.05
    """JumpReLU's threshold before training, on scaled activations."""


class TrainingSettings(_Settings):
    """How the members are trained."""

    methods: tuple[Method, ...] = METHODS
    """Ensembles to train: single, bagged, boosted, expanded (one SAE of the members' total width), expanded_l0 (one of
    their total width and total k, for topk and batchtopk); and single_long, expanded_long, expanded_l0_long: the same
    SAE for as many times the steps as there are members, as many as boosted stages take together."""
    members: bounds.Positive = 4
    """Members of the bagged and of the boosted ensemble, J; the expanded SAEs are J times as wide."""
    tokens: bounds.Tokens = 1_200_000
    """Token activations each member sees; more than there are means several passes."""
    batch_size: bounds.Positive = 1024
    """Activations in one step."""
    learning_rate: bounds.Rate = 1e-3
    """Peak learning rate of Adam. The paper uses 3e-4 for 80,000 steps of 10k; short runs need more."""
    beta1: bounds.Decay = 0.9
    """Adam's first decay rate; the paper uses 0."""
    beta2: bounds.Decay = 0.999
    """Adam's second decay rate."""
    warmup: bounds.Fraction = 0.05
    """Share of the steps in which the learning rate rises from 0."""
    decay: bounds.Fraction = 0.2
    """Share of the steps, the last ones, in which the learning rate falls to 0."""
    sparsity_warmup: bounds.Fraction = 0.2
    """Share of the steps in which the sparsity penalty rises to its full weight (relu and jumprelu)."""
    clip: bounds.Size = 1.0
    """Largest norm of the gradient of the loss per dimension."""
    seed: bounds.Seed = 0
    """Member j is initialised from this seed and j; the order of activations comes from it too."""
    member_seeds: tuple[bounds.Seed, ...] | None = None
    """Seed of each member of the bagged ensemble, and of each stage of the boosted one: such a member starts as the
    single SAE of a run with that seed. The order of activations stays that of training.seed."""
    member_k: tuple[bounds.Positive, ...] | None = None
    """sae.k of each member of the bagged ensemble, and of each stage of the boosted one."""
    member_sparsity: tuple[bounds.Weight, ...] | None = None
    """sae.sparsity of each member of the bagged ensemble, and of each stage of the boosted one."""
    member_learning_rates: tuple[bounds.Rate, ...] | None = None
    """training.learning_rate of each member of the bagged ensemble, and of each stage of the boosted one."""
    group: bounds.Natural = 0
    """Members of the bagged ensemble that are trained in one pass over the activations; 0 means as many as fit into the
    free memory. Their weights do not depend on it, but what the whole ensemble explains is not followed in groups."""
    device: bounds.Name = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the encoder product; auto is bfloat16 on a GPU that has it and float32 elsewhere.
    The fast kernels of a CPU only choose features by it, and take bfloat16 where the processor has it; those of a GPU
    read everything that they multiply in it, and add in float32."""
    kernels: Kernels = "auto"
    """plain (PyTorch), fast (compiled code: Numba on a CPU, Triton on a CUDA device, in float32 the same result) or
    auto (fast where it runs). Several processes that split batches among them always use the plain ones."""
    boosting: Literal["sequential", "pipelined"] = "sequential"
    """sequential (a stage begins when the one before it is finished) or pipelined (all stages learn side by side, each
    from what those before it leave at that step; about as fast as bagging)."""
    residuals: Residuals = "auto"
    """What sequentially boosted stages learn: cached (written to disk after each stage), recomputed (for every batch,
    through all earlier stages) or auto (cached if that is less work and the disk has room)."""


MEMBER_SETTINGS = {
    "member_seeds": "seed",
    "member_k": "k",
    "member_sparsity": "sparsity",
    "member_learning_rates": "learning_rate",
}
"""Settings with one value a member, and the settings of one SAE that these take the place of."""


class EvaluationSettings(_Settings):
    """What is measured after training."""

    concept_features: bounds.Counts = (1, 2, 5, 10, 20)
    """Numbers of features m that a concept detector may use."""
    train_texts: bounds.Positive = 1000
    """Training texts per concept, half of them positive."""
    test_texts: bounds.Positive = 400
    """Test texts per concept, half of them positive."""
    tokens_per_text: bounds.Positive = 128
    """First tokens of each text that are pooled."""
    pool_texts: bounds.Positive = 1200
    """Different texts that the embedded tasks draw on; each passes once through the model and every ensemble."""
    loss_tokens: bounds.Natural = 2048
    """Held-out tokens on which reconstructions are put back into the language model, whole texts; 0 leaves that out."""
    bootstrap: bounds.Positive = 200
    """Bootstrap samples behind an interval."""
    spurious_texts: bounds.Positive = 400
    """Confounded, balanced and test texts of a spurious correlation, so many of each."""


class TruthSettings(_Settings):
    """The known dictionary from which activations are drawn, where model.name and text.source are known."""

    features: bounds.Positive = 512
    """True features, F."""
    dimension: bounds.Positive = 64
    """Dimension of the activations, D."""
    active: bounds.Size = 8.0
    """True features that are active at a time, on average."""
    zipf: bounds.Spread = 1.0
    """The firing probability of the feature of rank r is proportional to 1/r to this power."""
    most: bounds.Share = 0.3
    """No feature fires on more than this share of the activations."""
    topics: bounds.Positive = 8
    """Topics, of which an activation has one and a feature belongs to one."""
    correlation: bounds.Fraction = 0.3
    """How much the features of a topic keep to it: 0 not at all, 1 entirely."""
    children: bounds.Fraction = 0.3
    """Share of the features that fire only where another one does, their parent."""
    magnitudes: bounds.Spread = 0.3
    """Spread of the features' mean coefficients: the standard deviation of their logarithm."""
    spread: bounds.Spread = 0.25
    """Standard deviation of one feature's coefficients where it fires, over their mean."""
    noise: bounds.Weight = 0.02
    """Energy of the noise, over that of the features."""
    offset: bounds.Weight = 0.5
    """Length of the bias that all activations share, over the root of the features' energy."""
    seed: bounds.Seed | None = None
    """Seed of the dictionary and of the activations; training.seed if not given."""


class RunSettings(_Settings):
    """Everything that decides a run."""

    text: TextSettings = TextSettings()
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    sae: SAESettings = SAESettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    truth: TruthSettings = TruthSettings()

    @property
    def truth_seed(self) -> int:
        """The seed of the known dictionary and of its activations."""
        return self.training.seed if self.truth.seed is None else self.truth.seed

    @model_validator(mode="after")
    def _all_or_nothing_is_known(self) -> Self:
        if (self.text.source == KNOWN) != (self.model.name == KNOWN):
            raise ValueError(
                f"text.source is {self.text.source} and model.name {self.model.name}; set both to {KNOWN}, or neither"
            )
        return self

    @model_validator(mode="after")
    def _methods_are_some(self, given: ValidationInfo) -> Self:
        methods = self.training.methods
        if not methods:
            raise ValueError("training.methods is empty")
        for number, method in enumerate(methods):
            if method in methods[:number] and not (given.context or {}).get("stored"):
                raise ValueError(f"training.methods names {method} twice")
        return self

    @model_validator(mode="after")
    def _features_can_be_counted(self) -> Self:
        if self.sae.width * self.training.members > (most := bounds.LARGEST_INDEX):
            raise ValueError(f"sae.width times training.members is more than {most}")
        return self

    @model_validator(mode="after")
    def _k_fits_width(self) -> Self:
        if self.sae.architecture in ("topk", "batchtopk") and self.sae.k > self.sae.width:
            raise ValueError(f"sae.k is {self.sae.k} but sae.width only {self.sae.width}")
        return self

    @model_validator(mode="after")
    def _members_have_their_settings(self) -> Self:
        training, selects = self.training, self.sae.architecture in ("topk", "batchtopk")
        for name, used in MEMBER_SETTINGS.items():
            values = getattr(training, name)
            if values is None:
                continue
            if len(values) != training.members:
                raise ValueError(
                    f"training.{name} holds {len(values)} values, but training.members is {training.members}; "
                    "give one a member"
                )
            if used in ("k", "sparsity") and (used == "k") != selects:
                raise ValueError(f"training.{name} is given, but {self.sae.architecture} has no sae.{used}")
        if training.member_k and max(training.member_k) > self.sae.width:
            raise ValueError(f"training.member_k holds {max(training.member_k)} but sae.width is only {self.sae.width}")
        return self

    @model_validator(mode="after")
    def _l0_can_be_set(self) -> Self:
        named = [method for method in self.training.methods if LONG.get(method, method) == "expanded_l0"]
        if named and self.sae.architecture not in SELECTING:
            raise ValueError(
                f"training.methods names {named[0]}, but the L0 of {self.sae.architecture} follows from a penalty and "
                "cannot be set; leave it out, or set sae.architecture to topk or batchtopk"
            )
        return self

    @model_validator(mode="after")
    def _members_differ(self) -> Self:
        training = self.training
        seeds = training.member_seeds or range(training.members)
        others = [getattr(training, name) for name in MEMBER_SETTINGS if name != "member_seeds"]
        members = list(zip(seeds, *(values for values in others if values is not None), strict=True))
        for number, member in enumerate(members):
            if member in members[:number]:
                raise ValueError(
                    f"members {members.index(member)} and {number} have the same seed {seeds[number]} in "
                    "training.member_seeds and no other difference"
                )
        return self

    @model_validator(mode="after")
    def _streams_have_no_rows(self) -> Self:
        if self.data.storage == "stream" and self.training.residuals == "cached":
            raise ValueError("training.residuals is cached, which needs data.storage to be disk")
        return self

    def sae_of(self, method: Method) -> SAESettings:
        """The SAE of a method: an expanded one is as wide as all members together, expanded_l0 has their k, too."""
        if method not in EXPANDED:
            return self.sae
        method = LONG.get(method, method)
        members, changed = self.training.members, {}
        changed["width"] = members * self.sae.width
        if method == "expanded_l0":
            changed["k"] = sum(self.training.member_k or [self.sae.k] * members)
        return self.sae.model_copy(update=changed)


def load_settings(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None, *, base: RunSettings | None = None
) -> RunSettings:
    """Settings from a TOML file, then from dotted overrides such as ``{"sae.k": 32}``.

    Args:
        path: The TOML file.
        overrides: Settings by their dotted names.
        base: What is not given is as it is here; by default the defaults.

    Raises:
        UserError: If the file is missing or not TOML, or a setting is unknown or out of range; the message names it.
    """
    values: dict[str, Any] = base.model_dump() if base else {}
    if path is not None:
        for section, table in read_toml(path).items():
            values[section] = {**values.get(section, {}), **table} if isinstance(table, dict) else table
    for dotted, value in (overrides or {}).items():
        section, _, name = dotted.partition(".")
        table = values.setdefault(section, {})
        if not isinstance(table, dict):
            raise UserError(f"Setting {section} must be a table of settings, not {table!r}.")
        table[name] = value
    return parse_settings(values, origin=str(path) if path else "the command line")


def parse_settings(values: Mapping[str, Any], *, origin: str, stored: bool = False) -> RunSettings:
    """Validate a nested mapping of settings.

    Args:
        values: The settings.
        origin: Where they are from, for messages.
        stored: Whether a run was made with them; what was allowed then is allowed to open.

    Raises:
        UserError: One sentence that names the first offending setting and its origin.
    """
    try:
        return RunSettings.model_validate(values, context=bounds.STORED if stored else None)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_beside(name)
            raise UserError(f"Unknown setting {short(name)} in {origin}; known there: {known}.") from None
        message = first["msg"].removeprefix("Value error, ")
        given = f" (given: {short(repr(first['input']))})" if name else ""
        raise UserError(f"Setting {name or 'combination'} in {origin} is not usable: {message}{given}.") from None


def stored_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as an older version has written them, with what it did although it had no setting for it."""
    text = values.get("text", {})
    return {**values, "text": {"cut": "first", **text}} if isinstance(text, Mapping) else dict(values)


def _known_beside(name: str) -> str:
    """The names that would have been valid in the place of a dotted setting name."""
    section = name.split(".")[0]
    field = RunSettings.model_fields.get(section)
    if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
        return ", ".join(RunSettings.model_fields)
    return ", ".join(field.annotation.model_fields)
