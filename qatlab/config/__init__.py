"""What a user asks for: the schema, the words of the command line, what nodes make, what may."""

from qatlab.config.schema import (
    allowed_names,
    append_rules,
    apply_given,
    check,
    clear_initial_weights,
    in_sweep,
    job_name,
    options_of,
    portable_yaml,
    register,
    stored_config,
)

__all__ = [
    "allowed_names",
    "append_rules",
    "apply_given",
    "check",
    "clear_initial_weights",
    "in_sweep",
    "job_name",
    "options_of",
    "portable_yaml",
    "register",
    "stored_config",
]
