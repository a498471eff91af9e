"""Training: the step, bagging, boosting, schedules, checkpoints."""
