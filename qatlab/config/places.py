"""Where configuration files lie: ours, and in front of them ``./conf`` of the user's project."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from qatlab.config.targets import TARGET
from qatlab.errors import ConfigError
from qatlab.system.files import read_yaml

CONF = Path(__file__).parents[1] / "conf"
PROJECT = "conf"  # in the current folder


class ProjectConf(SearchPathPlugin):
    """Has ``./conf`` searched first, so that a project adds options, or replaces some of ours."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the folder in front, where there is one."""
        if (project := project_conf()) is not None:
            search_path.prepend(provider="project", path=f"file://{project}")


def register() -> None:
    """Let Hydra ask for it."""
    Plugins.instance().register(ProjectConf)


def project_conf() -> Path | None:
    """Return ``./conf`` of the current folder, unless there is none or it is ours."""
    project = Path(os.path.realpath(PROJECT))  # which bears links that lead to themselves
    return project if project.is_dir() and project != CONF.resolve() else None


def own_targets(run: Path | None = None) -> set[str]:
    """Return what the user's project makes of its own code: names such as ``mynet.Net``.

    They stand as ``_target_`` in a YAML of ``./conf``, and their module is a file of the current
    folder. Nothing is imported to find that out.

    Args:
        run: the folder of a run; a project inside of it is a part of what it came with, and no
            user's.
    """
    project, here = project_conf(), Path(os.path.realpath("."))
    if project is None or (run is not None and here.is_relative_to(os.path.realpath(run))):
        return set()
    found: set[str] = set()
    for file in sorted(project.rglob("*.yaml")):
        try:
            found |= set(_targets(read_yaml(file)))
        except ConfigError:
            continue  # it may use what Hydra has beyond plain YAML: such a file allows nothing
    packages = {name.partition(".")[0] for name in found}
    own = {name for name in packages if _lies_here(name, here)}
    return {name for name in found if name.partition(".")[0] in own}


def _lies_here(package: str, here: Path) -> bool:
    """Tell whether Python finds a module or package in a folder itself: not in ``.venv`` there."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    files = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    accepted = {here / f"{package}.py", here / package / "__init__.py", here / package}
    return bool(files) and {Path(os.path.realpath(file)) for file in files} <= accepted


def _targets(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        if isinstance(content.get(TARGET), str):
            yield content[TARGET]
        content = list(content.values())
    if isinstance(content, list):
        for inner in content:
            yield from _targets(inner)
