"""Where configuration files lie: ours, and in front of them ``./conf`` of the user's project."""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

CONF = Path(__file__).parents[1] / "conf"
OWN = "conf"  # in the current folder


class OwnConf(SearchPathPlugin):
    """Has ``./conf`` searched first, so that a project adds options, or replaces some of ours."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the folder in front, where there is one."""
        own = Path(os.path.realpath(OWN))  # which bears links that lead to themselves
        if own.is_dir() and own != CONF.resolve():
            search_path.prepend(provider="project", path=f"file://{own}")


def register() -> None:
    """Let Hydra ask for it."""
    Plugins.instance().register(OwnConf)
