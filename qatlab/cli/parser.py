"""The words of a command that takes no configuration."""

from __future__ import annotations

import argparse
from typing import NoReturn

from qatlab.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Reads the words of a command; wrong ones are a user's mistake like any other."""

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError."""
        raise ConfigError(f"{message}; see {self.prog} --help.")
