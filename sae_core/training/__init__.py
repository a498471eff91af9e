"""Training: the step, bagging, boosting, schedules, checkpoints."""

from sae_core.training.methods import train_run
from sae_core.training.source import Source
from sae_core.training.step import Trainer

__all__ = ["Source", "Trainer", "train_run"]
