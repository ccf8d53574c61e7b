"""Reads files of ``torch.save``; nothing in them is executed, and what is refused is described.

Since torch 1.6 such a file is a zip archive, in which each part has a checksum. Torch does not look
at them: a tensor with a flipped bit would be read as another one.
"""

from __future__ import annotations

import errno
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from qatlab.errors import CheckpointError, ConfigError
from qatlab.system.files import check_regular

LAST = "last.ckpt"
SETTINGS = "settings"  # what a run is trained under, in the state of what saves its checkpoints

NOT_ALLOWED = re.compile(r"GLOBAL (\S+) was not an allowed global")  # torch's words, as are these
NO_DICTIONARY = re.compile(r"Can only SETITEMS? for .* but got <class '([^']*)'>")
NO_LIST = re.compile(r"Can only append to lists, but got <class '([^']*)'>")
BLOCKED = re.compile(r"unsupported GLOBAL (\S+) whose module")
BEGINNINGS = {  # what people take for a checkpoint, by its first bytes
    b"version https://git-lfs": "a Git LFS pointer, so fetch the file itself (git lfs pull)",
    b"<": "a web page or XML, so the download has failed",
    b"{": "JSON",
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    b"\x1f\x8b": "a gzip archive, so unpack it",
    b"\x93NUMPY": "a numpy array",
}
COMMON = {  # classes that stand beside the weights in many files
    "argparse.Namespace": "an argparse.Namespace",
    "numpy.core.multiarray.scalar": "a numpy number",
    "numpy._core.multiarray.scalar": "a numpy number",
    "numpy.core.multiarray._reconstruct": "a numpy array",
    "numpy._core.multiarray._reconstruct": "a numpy array",
}
# Functions and modules of which nothing is taken, though a stand-in would not run them either.
RUN_CODE = ("eval", "exec", "compile", "open", "__import__", "system", "popen", "breakpoint")
CODE_RUNNERS = ("subprocess", "importlib", "runpy", "shutil", "socket", "ctypes", "pty", "pickle")
TORCH_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # of the format before torch 1.6
MOST_KEYS = 4  # that a description names
ZIP = b"PK\x03\x04"  # how torch knows an archive
IS_FOLDER = 0x10  # attribute of a part, of which torch then reads nothing, and says so nowhere
MOST_UNPACKED = 100  # bytes that an archive may hold for each of its own: torch packs nothing


class StandIn:
    """Stands for an object of a class that is not loaded; it keeps no more than its state.

    Attributes:
        path: module and name of the class or function.
        state: what the object's ``__dict__`` would be.
    """

    path = ""

    def __init__(self, *arguments: Any) -> None:
        self.state: dict[str, Any] = {}

    def __new__(cls, *arguments: Any) -> StandIn:
        """Make one from whatever a file gives; it may never be initialised."""
        made = super().__new__(cls)
        made.state = {}
        return made

    def __setstate__(self, state: Any) -> None:
        """Keep the state of an object whose class is not there to read it."""
        self.state = state if isinstance(state, dict) else {}

    @property
    def is_module(self) -> bool:
        """Whether it stands for an ``nn.Module``."""
        return "_modules" in self.state and "_parameters" in self.state


class _StandInList(StandIn, list[Any]):
    """Stands for a list of a class that is not loaded."""


class _StandInDictionary:
    """Makes the plain dictionary that stands for one of a class that is not loaded."""

    def __new__(cls, *arguments: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        """Return an empty one, of the kind that the reader fills."""
        return OrderedDict()


def read(path: Path, stand_ins: bool = False) -> Any:
    """Return what a file of ``torch.save`` holds; nothing in it is executed.

    Args:
        path: the file.
        stand_ins: let a :class:`StandIn` take the place of each object whose class
            ``torch.load(weights_only=True)`` does not know, or an ``OrderedDict`` where it is a
            kind of dictionary. Its class is neither imported nor called.

    Raises:
        CheckpointError: if the file is missing, truncated, or of another kind; or if a checksum in
            it is not that of what it holds.
    """
    try:
        check_regular(path)
        _check_sums(path)
    except ConfigError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        raise CheckpointError(f"{path} does not exist" if missing else str(error)) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    known: dict[str, type] = {}
    while True:
        allowed = [(kind, name) for name, kind in known.items()]
        try:
            with (
                torch.serialization.safe_globals(allowed),  # type: ignore[arg-type] # pairs, too
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # of formats that are refused below
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a file of another kind can stop the reader in any way
            if not (stand_ins and _stand_in(str(error), path, known)):
                raise CheckpointError(f"{path} {_fault(path, error, known)}") from error


def _check_sums(path: Path) -> None:
    """Raise a CheckpointError if an archive holds other bytes than were put into it.

    One without checksums passes: torch writes zeros if it is told not to compute them.

    Raises:
        OSError: if the disk cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return
    if not _is_archive(path):
        raise CheckpointError(f"{path} is truncated or no checkpoint: its end is missing")
    try:
        fault = _fault_of_archive(path)
    except OSError as error:
        if error.errno != errno.EINVAL:  # which a place in front of the file's beginning is
            raise
        fault = "its directory names places outside of it"
    except Exception as error:  # what is damaged can stop the reader in any way
        fault = " ".join(str(error).split()) or type(error).__name__
    if fault:
        raise CheckpointError(f"{path} is damaged: {fault}")


def _is_archive(path: Path) -> bool:
    """Tell whether a file ends as a zip archive does."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True  # a damaged one


def _fault_of_archive(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if sum(part.file_size for part in parts) > MOST_UNPACKED * path.stat().st_size:
            return f"it unpacks to more than {MOST_UNPACKED} times its size"
        if folders := [part.filename for part in parts if part.external_attr & IS_FOLDER]:
            return f"its part {folders[0]!r} is a folder"
        if any(part.CRC for part in parts) and (name := archive.testzip()):
            return f"the checksum of its part {name!r} is wrong"
    return ""


def describe(value: Any) -> str:
    """Return what an object of a file is, in words; of a dictionary its first keys, too."""
    if isinstance(value, StandIn):
        if value.is_module:
            return f"a pickled nn.Module of class {value.path}: save its state_dict()"
        return COMMON.get(value.path, f"an object of class {value.path}")
    if isinstance(value, Tensor):
        return "a tensor"
    if isinstance(value, Mapping):
        first = [f"{key!r} ({_kind(inner)})" for key, inner in list(value.items())[:MOST_KEYS]]
        more = ", ..." if len(value) > MOST_KEYS else ""
        return f"a dictionary of {', '.join(first)}{more}" if first else "an empty dictionary"
    if isinstance(value, (list, tuple)) and value:
        return f"a {type(value).__name__} whose first item is {describe(value[0])}"
    return f"a value of type {type(value).__name__}"


def _kind(value: Any) -> str:
    if isinstance(value, (StandIn, Tensor)):
        return describe(value)
    return "dictionary" if isinstance(value, Mapping) else type(value).__name__


def _stand_in(message: str, path: Path, known: dict[str, type]) -> bool:
    """Add to ``known`` what the reader has stopped at; False if a stand-in cannot help."""
    if found := NOT_ALLOWED.search(message):
        # All at once, where the format tells: each attempt reads the file.
        names = [name for name in _unknown_classes(path) if name not in known] or [found[1]]
        if known.keys() & {*names}:  # torch leaves out the module of a builtin
            names = [f"builtins.{found[1]}"]
        known.update({name: _named(name, StandIn) for name in names if not _runs_code(name)})
        return not any(map(_runs_code, names))
    for pattern, kind in ((NO_DICTIONARY, _StandInDictionary), (NO_LIST, _StandInList)):
        found = pattern.search(message)
        name = found[1].removeprefix(f"{__name__}.") if found else ""
        if name in known and not issubclass(known[name], kind):
            known[name] = _named(name, kind)
            return True
    return False


def _named(path: str, kind: type) -> type:
    made = type("", (kind,), {"path": path})
    made.__qualname__ = path  # torch's messages then name it
    return made


def _runs_code(name: str) -> bool:
    parts = name.split(".")
    return parts[-1] in RUN_CODE or parts[0] in CODE_RUNNERS


def _unknown_classes(path: Path) -> list[str]:
    """Return the classes that a file names and ``weights_only`` does not know, [] if not known."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, EOFError, UnpicklingError):  # of the format before torch 1.6
        return []


def _fault(path: Path, error: Exception, known: Collection[str]) -> str:
    """Return why a file cannot be read: what it is, or what it holds."""
    message = str(error)
    if found := BLOCKED.search(message) or NOT_ALLOWED.search(message):
        unsafe = [name for name in _unknown_classes(path) if _runs_code(name)]
        name = unsafe[0] if unsafe else found[1]
        what = COMMON.get(name, f"what {name} makes")
        return f"holds {what}, which is not loaded, as it could run code: save the state_dict alone"
    if "TorchScript" in message:
        return "is a TorchScript archive: save the state_dict() of its network"
    if "Only persistent_load of storage" in message:  # of the format before torch 1.6
        of_class = f" of class {[*known][-1]}" if known else ""  # the last that it has named
        return f"holds a pickled nn.Module{of_class}: save its state_dict()"
    return f"is truncated or no checkpoint: {_kind_of_file(path, message) or type(error).__name__}"


def _kind_of_file(path: Path, message: str) -> str:
    """Return what a file looks like or, if that is unknown, what its reader said."""
    with path.open("rb") as file:
        start = file.read(64)
    for begin, what in BEGINNINGS.items():
        if start.lstrip().startswith(begin):
            return f"it is {what}"
    if not start:
        return "it is empty"
    if _is_archive(path):
        return "it is a zip archive that torch.save did not write"
    if start.isascii() and start.decode().replace("\n", "").replace("\r", "").isprintable():
        return "it is text"
    if start.startswith(b"\x80") and TORCH_MAGIC not in start:
        return "it is a pickle that torch.save did not write"
    reason = re.split(r"\n|\. ", message)[0]
    return reason if " " in reason and "Weights only" not in reason else ""
