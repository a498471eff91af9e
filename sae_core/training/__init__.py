"""Training: the step, bagging, boosting, schedules, checkpoints."""

from sae_core.training.source import Source
from sae_core.training.step import Trainer
from sae_core.training.train import train_run

__all__ = ["Source", "Trainer", "train_run"]
