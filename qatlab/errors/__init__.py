"""Errors that a user's input can cause, their sentences, and the checks that raise them."""

from qatlab.errors.kinds import (
    CheckpointError,
    ConfigError,
    DataError,
    QatlabError,
    QuantRuleError,
    TrainingError,
    did_you_mean,
    plain,
    text,
    unknown,
    wrong,
)
from qatlab.errors.sizes import size_of

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "QatlabError",
    "QuantRuleError",
    "TrainingError",
    "did_you_mean",
    "plain",
    "size_of",
    "text",
    "unknown",
    "wrong",
]
