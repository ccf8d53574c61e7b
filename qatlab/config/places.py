"""Where configuration files lie: ours, and in front of them ``./conf`` of the user's project."""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

CONF = Path(__file__).parents[1] / "conf"
PROJECT = "conf"  # in the current folder


class ProjectConf(SearchPathPlugin):
    """Has ``./conf`` searched first, so that a project adds options, or replaces some of ours."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the folder in front, where there is one."""
        project = Path(os.path.realpath(PROJECT))  # which bears links that lead to themselves
        if project.is_dir() and project != CONF.resolve():
            search_path.prepend(provider="project", path=f"file://{project}")


def register() -> None:
    """Let Hydra ask for it."""
    Plugins.instance().register(ProjectConf)
