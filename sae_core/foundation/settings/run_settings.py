"""The settings of a run: one class per section, one docstring per setting (also the command line's help)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    create_model,
    model_serializer,
    model_validator,
)

from sae_core.foundation.methods import BY_DEFAULT, EVERY, MethodName, in_words
from sae_core.foundation.origins import ChosenOrigin, default_origin, says_more, with_origin
from sae_core.foundation.settings import architectures, bounds
from sae_core.foundation.settings.architectures import Architecture

Cut = Literal["passages", "first"]
Site = bounds.Site
Kernels = Literal["auto", "plain", "fast"]
Residuals = Literal["auto", "cached", "recomputed"]
PUBLIC_SETS = ("bias_in_bios", "amazon_reviews", "github_code", "ag_news", "europarl")
"""Public data sets with labels; `analysis.concepts.public_tasks` describes them."""
PUBLIC_TEXTS = 4000  # training texts per concept of a public data set, as in SAEBench (Karvonen et al. 2025)
EMBEDDED = "embedded"
"""The name of the text and of the model that come with the package."""


def is_pattern(site: Site) -> bool:
    """Whether a site is the name of a module, with * for the layer."""
    return "*" in site


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TextSettings(_Settings):
    """The text."""

    source: bounds.Name = EMBEDDED
    """embedded, a local file (.txt, .jsonl, .json, .csv, .parquet; also .gz, .zst) or the id of a hub data set."""
    text_column: bounds.Name = "text"
    """Column or field that holds the text."""
    split: bounds.Name = "train"
    """Split of a hub data set."""
    subset: bounds.Name | None = None
    """Configuration name of a hub data set."""
    max_documents: bounds.Positive | None = None
    """Read at most this many documents."""
    cut: Cut = "passages"
    """passages (cut a text longer than the context into several passages) or first (read only its first tokens)."""

    @property
    def is_embedded(self) -> bool:
        """Whether the text is the corpus that comes with the package."""
        return self.source == EMBEDDED


class ModelSettings(_Settings):
    """The model, and the layer whose activations are read."""

    name: bounds.Name = EMBEDDED
    """embedded, a local folder in transformers format, a GGUF file or a folder with one, a hub id, or
    transformer-lens:NAME (a TransformerLens model)."""
    revision: bounds.Name | None = None
    """Revision of a hub model."""
    layer: bounds.Natural = 4
    """Index of the block whose output is read; 0 is the first block."""
    site: Site = "residual"
    """residual (the block's output), mlp or attention (what that part adds to the residual stream), or the name of a
    module within the block, with * for the layer, such as model.layers.*.mlp.act_fn (its output)."""
    context: bounds.Positive = 256
    """Largest number of tokens in a passage of text, special tokens included."""
    batch_size: bounds.Positive = 32
    """Passages in one forward pass."""
    device_map: bounds.Name | None = None
    """How transformers spreads the model over devices, such as auto or balanced; needs the package accelerate."""
    load_in_8bit: bool = False
    """Keep the model's weights in 8 bits; needs the packages bitsandbytes and accelerate."""

    @property
    def is_embedded(self) -> bool:
        """Whether the model is the one that comes with the package."""
        return self.name == EMBEDDED


class DataSettings(_Settings):
    """How many activations are gathered, and how they are stored."""

    train_tokens: bounds.Tokens = 400_000
    """Number of different token activations gathered for training."""
    index_tokens: bounds.Tokens = 150_000
    """Number of token activations to index, from the start of the corpus. Only indexed tokens can be browsed."""
    evaluation_tokens: bounds.Tokens = 50_000
    """Number of held-out token activations on which reconstruction is measured."""
    storage: Literal["disk", "stream"] = "disk"
    """disk (gather the training activations once and keep them) or stream (run the model again in every pass)."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Number format of the activation cache."""
    leave_out: tuple[bounds.TokenNamed, ...] = ()
    """Tokens of a text to leave out of training and of the held-out figures: ids, or tokens as they read."""
    largest_norm: bounds.Times | None = None
    """Leave out tokens whose activation is longer than this many times the median norm, such as attention sinks."""
    shuffle: Literal["auto", "memory", "disk"] = "auto"
    """memory (draw rows from the whole cache), disk (first deal the rows to random piles on disk, then read one pile
    after another) or auto (disk if the cache is larger than the free memory and the disk has room)."""


class SAESettings(_Settings):
    """One sparse autoencoder."""

    architecture: Architecture = Field(default="topk", description=f"{architectures.described()}.")
    width: bounds.Positive = 2048
    """Features of one member, n."""
    k: bounds.Positive = Field(
        default=16, description=f"Active features per token, exactly or on average, for {architectures.listed('k')}."
    )
    sparsity: bounds.Weight = Field(
        default=1.0,
        description=f"Weight of the sparsity penalty, for {architectures.listed('sparsity')}, on activations scaled to "
        "E‖a‖² = d.",
    )
    aux_coefficient: bounds.Weight = 1 / 32
    """Weight of AuxK, which trains dead features on the reconstruction error (Gao et al. 2024, appendix A.2)."""
    dead_after_tokens: bounds.Tokens = 100_000
    """In training, a feature counts as dead if it has not fired for this many tokens."""


if not TYPE_CHECKING:  # whatever is an architecture's own is read by its own file alone
    SAESettings = architectures.with_own_settings(SAESettings)


def sae_settings() -> type[SAESettings]:
    """`SAESettings`, with the own settings of architectures that were defined since."""
    since = architectures.own_names() - SAESettings.model_fields.keys()
    return architectures.with_own_settings(SAESettings) if since else SAESettings  # type: ignore[return-value]


class TrainingSettings(_Settings):
    """How the members are trained."""

    methods: tuple[MethodName, ...] = Field(default=BY_DEFAULT, description=f"Ensembles to train: {in_words()}.")
    members: bounds.Positive = 4
    """J, the number of members of the bagged and of the boosted ensemble; an expanded SAE is J times as wide."""
    inner: bounds.Positive = 2
    """Number of SAEs in each member of an ensemble of ensembles. training.members, which counts the SAEs of all members
    together, must be a multiple of it."""
    tokens: bounds.Tokens = 1_200_000
    """Number of token activations that each member sees. If fewer are gathered, training makes several passes."""
    batch_size: bounds.Positive = 1024
    """Number of activations per step."""
    learning_rate: bounds.Rate = 1e-3
    """Peak learning rate of Adam. The paper uses 3e-4 for 80,000 steps of 10k; short runs need more."""
    beta1: bounds.Decay = 0.9
    """Adam's first decay rate; the paper uses 0."""
    beta2: bounds.Decay = 0.999
    """Adam's second decay rate."""
    warmup: bounds.Fraction = 0.05
    """Share of the steps, at the start, in which the learning rate rises from 0."""
    decay: bounds.Fraction = 0.2
    """Share of the steps, at the end, in which the learning rate falls to 0."""
    sparsity_warmup: bounds.Fraction = 0.2
    """Share of the steps in which the sparsity penalty rises to its full weight."""
    clip: bounds.Size = 1.0
    """The gradient of the loss per dimension is clipped to this norm."""
    boost_from: bounds.Name | None = None
    """The imported ensemble of the run whose residual the method extended trains on; train --boost-from sets it."""
    seed: bounds.Seed = 0
    """Seed of the initial weights (member j uses this seed and j) and of the order of activations."""
    member_seeds: tuple[bounds.Seed, ...] | None = None
    """Seed of each member of the bagged ensemble and of each stage of the boosted ensemble. A member with seed s starts
    with the weights of the single SAE of a run with training.seed s; training.seed still decides the order of
    activations."""
    member_k: tuple[bounds.Positive, ...] | None = None
    """sae.k of each member of the bagged ensemble and of each stage of the boosted ensemble."""
    member_sparsity: tuple[bounds.Weight, ...] | None = None
    """sae.sparsity of each member of the bagged ensemble and of each stage of the boosted ensemble."""
    member_learning_rates: tuple[bounds.Rate, ...] | None = None
    """training.learning_rate of each member of the bagged ensemble and of each stage of the boosted ensemble."""
    group: bounds.Natural = 0
    """Number of members of the bagged ensemble to train in one pass over the activations; 0 means as many as fit into
    the free memory. The weights do not depend on this number. If several passes are needed, the training curves lack
    the explained variance of the whole ensemble."""
    device: bounds.Name = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the encoder product; auto is bfloat16 on a GPU that supports it and float32 elsewhere.
    The fast CPU kernels use this precision only to choose features, and use bfloat16 if the processor supports it. The
    fast GPU kernels multiply in this precision and add in float32."""
    kernels: Kernels = "auto"
    """plain (PyTorch), fast (compiled code: Numba on a CPU, Triton on a CUDA device; in float32 the result is the same)
    or auto (fast if it runs here). Processes that split batches among them always use the plain kernels."""
    boosting: Literal["sequential", "pipelined"] = "sequential"
    """sequential (train one stage after another) or pipelined (train all stages at once, each on the residual that the
    earlier stages leave at that step; about as fast as bagging). Stages that are ensembles are always sequential."""
    residuals: Residuals = "auto"
    """How sequential boosting gets its residuals: cached (written to disk after each stage), recomputed (for every
    batch, through all earlier stages) or auto (cached if that is less work and the disk has room)."""


MEMBER_SETTINGS = {
    "member_seeds": "seed",
    "member_k": "k",
    "member_sparsity": "sparsity",
    "member_learning_rates": "learning_rate",
}
"""Settings with one value per member, and the setting of one SAE that each of them replaces."""


class EvaluationSettings(_Settings):
    """The evaluations after training."""

    concept_features: bounds.Counts = (1, 2, 5, 10, 20)
    """Numbers of features m that a concept detector may use."""
    train_texts: bounds.Positive = 1000
    """Training texts per concept, half of them positive."""
    test_texts: bounds.Positive = 400
    """Test texts per concept, half of them positive."""
    tokens_per_text: bounds.Positive = 128
    """Number of tokens to pool, from the start of each text."""
    pool_texts: bounds.Positive = 1200
    """Number of different texts in the embedded tasks; the model and every ensemble read each text once."""
    loss_tokens: bounds.Natural = 2048
    """Number of held-out tokens, in whole texts, for measuring loss recovered; 0 skips this evaluation."""
    bootstrap: bounds.Positive = 200
    """Number of bootstrap samples for an interval."""
    spurious_texts: bounds.Positive = 400
    """Number of confounded texts for a spurious correlation, and also of balanced texts and of test texts."""


class TruthSettings(_Settings):
    """The known dictionary, used if origin.kind is known."""

    features: bounds.Positive = 512
    """Number of true features, F."""
    dimension: bounds.Positive = 64
    """Dimension of the activations, D."""
    active: bounds.Size = 8.0
    """Mean number of true features per activation."""
    zipf: bounds.Spread = 1.0
    """Zipf exponent: the feature of rank r fires with a probability proportional to 1/r to this power."""
    most: bounds.Share = 0.3
    """No feature fires on more than this share of the activations."""
    topics: bounds.Positive = 8
    """Number of topics. Each activation has one topic, and each feature belongs to one."""
    correlation: bounds.Fraction = 0.3
    """How strongly features keep to their topic: 0 not at all, 1 entirely."""
    children: bounds.Fraction = 0.3
    """Share of the features that have a parent; such a feature fires only where its parent fires."""
    magnitudes: bounds.Spread = 0.3
    """Spread of the features' mean coefficients: the standard deviation of their logarithm."""
    spread: bounds.Spread = 0.25
    """Standard deviation of a feature's coefficients where it fires, divided by their mean."""
    noise: bounds.Weight = 0.02
    """Energy of the noise, divided by the energy of the features."""
    offset: bounds.Weight = 0.5
    """Length of the bias that all activations share, divided by the square root of the features' energy."""
    seed: bounds.Seed | None = None
    """Seed of the dictionary and of the activations; training.seed by default."""


class RunSettings(_Settings):
    """All settings of a run."""

    origin: ChosenOrigin = default_origin()
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

    @model_validator(mode="before")
    @classmethod
    def _origin_is_chosen(cls, values: Any) -> Any:
        return with_origin(values, unnamed=EMBEDDED) if isinstance(values, Mapping) else values

    @model_serializer(mode="wrap")
    def _without_a_plain_origin(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if not says_more(self.origin):
            written.pop("origin", None)
        return written

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
        if architectures.fixes_l0(self.sae.architecture) and self.sae.k > self.sae.width:
            raise ValueError(f"sae.k is {self.sae.k} but sae.width only {self.sae.width}")
        return self

    @model_validator(mode="after")
    def _members_have_their_settings(self) -> Self:
        training, architecture = self.training, self.sae.architecture
        for name, used in MEMBER_SETTINGS.items():
            values = getattr(training, name)
            if values is None:
                continue
            if len(values) != training.members:
                raise ValueError(
                    f"training.{name} holds {len(values)} values, but training.members is {training.members}; "
                    "give one a member"
                )
            if used in ("k", "sparsity") and not architectures.reads(architecture, used):
                raise ValueError(f"training.{name} is given, but {architecture} has no sae.{used}")
        if training.member_k and max(training.member_k) > self.sae.width:
            raise ValueError(f"training.member_k holds {max(training.member_k)} but sae.width is only {self.sae.width}")
        return self

    @model_validator(mode="after")
    def _l0_can_be_set(self) -> Self:
        named = [method for method in self.training.methods if EVERY[method].needs_fixed_l0]
        if named and not architectures.fixes_l0(self.sae.architecture):
            raise ValueError(
                f"training.methods names {named[0]}, but the L0 of {self.sae.architecture} follows from a penalty and "
                f"cannot be set; leave it out, or set sae.architecture to {architectures.listed('k', last='or')}"
            )
        return self

    @model_validator(mode="after")
    def _methods_can_be_trained(self) -> Self:
        for method in self.training.methods:
            if fault := EVERY[method].fault(self):
                raise ValueError(fault)
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
    def _tokens_can_be_left_out(self) -> Self:
        for name in ("leave_out", "largest_norm"):
            if getattr(self.data, name) and not self.origin.reads_text:
                raise ValueError(f"data.{name} leaves out tokens of a text, and {self.origin.title} has none")
        return self

    @model_validator(mode="after")
    def _streams_have_no_rows(self) -> Self:
        if self.data.storage == "stream" and self.training.residuals == "cached":
            raise ValueError("training.residuals is cached, which needs data.storage to be disk")
        return self

    def sae_of_member(self, number: int) -> SAESettings:
        """The SAE of a member of the bagged ensemble, or of a stage of the boosted one, with its own settings."""
        given = {used: getattr(self.training, name) for name, used in MEMBER_SETTINGS.items()}
        own = {used: given[used][number] for used in ("k", "sparsity") if given[used] is not None}
        return self.sae.model_copy(update=own)


def run_settings() -> type[RunSettings]:
    """`RunSettings`, with the own settings of architectures that were defined since."""
    sae = sae_settings()
    return RunSettings if sae is SAESettings else create_model("RunSettings", __base__=RunSettings, sae=(sae, sae()))
