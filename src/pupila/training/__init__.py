"""Training: from a Dataset to a model file. The only package that imports torch."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    from pupila.errors import MissingExtraError

    raise MissingExtraError("Training", "train") from error
