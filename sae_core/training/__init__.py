"""Train ensembles: the step, bagging, boosting, schedules, checkpoints."""
