"""What happens around a command: configuration errors and stops become one sentence."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from qatlab import config
from qatlab.errors import QatlabError, did_you_mean

FULL_ERROR = "HYDRA_FULL_ERROR"
WANTS_TRACE = os.environ.get(FULL_ERROR, "0") != "0"  # what the user has set; start() sets it too


def start(main: Callable[[], None]) -> None:
    """Run a Hydra main function; a user's mistake ends in a sentence and exit code 1."""
    config.register()
    os.environ[FULL_ERROR] = "1"  # Hydra would print a stack trace, or its own words, and exit
    try:
        main()
    except Exception as error:
        if WANTS_TRACE or not _is_users(error):
            raise
        _stop(_sentence(error))


def checked(action: Callable[[DictConfig], Any], cfg: DictConfig) -> None:
    """Run the action of a command; see :func:`start`."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its tips and devices
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # data are in memory
    warnings.filterwarnings("ignore", ".*Total length of `list`.*zero.*")  # data.validation=0
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning uses torch's older name
    try:
        action(cfg)
    except (QatlabError, PermissionError) as error:
        if WANTS_TRACE:
            raise
        _stop(_sentence(error))
    except KeyboardInterrupt:
        print(f"\nInterrupted. To continue: python train.py resume={cfg.resume or cfg.folder}")
        raise SystemExit(130) from None


def _stop(sentence: str) -> None:
    print(f"Error: {sentence}", file=sys.stderr)
    raise SystemExit(1)


def _is_users(error: BaseException) -> bool:
    module = type(error).__module__
    return isinstance(
        error, (QatlabError, OmegaConfBaseException, PermissionError)
    ) or module.startswith("hydra.")


def _sentence(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigKeyError) and cause.full_key and cause.parent_node is not None:
            parent, _, key = cause.full_key.rpartition(".")
            accepted = [str(k) for k in cause.parent_node]
            where = f" in {parent}" if parent else ""
            return (
                f"unknown key '{key}'{where}.{did_you_mean(key, accepted)} "
                f"Accepted{where}: {', '.join(accepted)}."
            )
        cause = cause.__cause__
    if isinstance(error, PermissionError):
        return f"cannot write {error.filename}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines()]
    kept = []
    for line in lines:
        if line.startswith(("Config search path", "reference_type", "object_type")):
            break
        if line:
            kept.append(line)
    return " ".join(kept)
