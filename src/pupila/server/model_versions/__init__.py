"""Hot reload and the history of model versions."""
