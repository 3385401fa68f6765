"""How each model and featurizer in ``assets/`` was made: one file a recipe, and the resumable loop they share."""
