"""Finds the weights of a network in a file: in which of its dictionaries, behind which prefix."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from qatlab.errors import CheckpointError, ConfigError
from qatlab.system.files import check_regular
from qatlab.training.torch_files import StandIn, read

EXTRA_STATE = "_extra_state"  # what a module keeps beside its tensors; of a quantizer a text
DRAWN = "_drawn"  # metadata: keys that the file leaves out, and that keep their initial values
SAFETENSORS = ".safetensors"
SHA256 = "_sha256"  # metadata: of the whole file, in which zeros stand for this sum itself
NO_CHECKSUM = "0" * 64
CHUNK = 1 << 20  # bytes
# What other programs put around a module, so that its name stands inside of others.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
ORIG, MASK = "_orig", "_mask"  # of torch.nn.utils.prune
AVERAGED = re.compile(r"(^|[._])(\w*ema|avg|averaged?|swa|teacher|shadow)($|[._])", re.IGNORECASE)


@dataclass
class Weights:
    """A state dictionary in a file, by the names of a network.

    Attributes:
        place: its keys in the file, with dots between them; "" of the file's own dictionary.
        prefix: what was taken off the names in the file.
        added: what was put in front of them.
        values: tensors and extra states, by the network's names.
        keys: of those in the file, by the network's names.
        outside: keys of the dictionary without the prefix.
        wrappers: what was taken out of the names.
        pruned: names of weights that are a ``weight_orig`` times a ``weight_mask`` in the file.
        n_known: how many of the network's names are among those of the values.
    """

    place: str
    prefix: str
    added: str
    values: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    wrappers: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    n_known: int = 0

    @property
    def is_average(self) -> bool:
        """Whether it holds an average over the training, by its name."""
        return AVERAGED.search(f"{self.place}.{self.prefix}") is not None

    @property
    def source(self) -> str:
        """Where it stands in the file, in words; "" if that is the whole of it."""
        words = [repr(self.place)] if self.place else []
        words += [f"names that begin with {self.prefix!r}"] if self.prefix else []
        return ", ".join(words)


def read_weights(path: Path) -> Any:
    """Return what a file of weights holds; nothing in it is executed.

    Args:
        path: a ``.safetensors`` file, by its name or its content, or one of ``torch.save``, in
            which a :class:`~qatlab.training.torch_files.StandIn` takes the place of each object
            of a foreign class.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    return _safetensors(path) if _is_safetensors(path) else read(path, stand_ins=True)


def find_weights(content: Any, own: Collection[str]) -> list[Weights]:
    """Return each state dictionary of a file behind each prefix that a network's names suggest.

    Dictionaries without a name of the network, such as those that an optimizer has for each weight,
    are returned only if there is no other.

    Args:
        content: of the file.
        own: names of the network's values.

    Returns:
        Plain ones first, then averages; of both those with the most of the network's names first.
        Empty if the file has no dictionary of tensors.
    """
    found, is_wrapped = [], any(_unwrapped(key) != key for key in own)
    for place, dictionary in _dictionaries(content):
        names = {key: _unwrapped(key) for key in dictionary}
        if len(set(names.values())) < len(names) or is_wrapped:
            names = {key: key for key in dictionary}
        for prefix, added in _prefixes(names.values(), own):
            found.append(_renamed(place, dictionary, names, prefix, added))
    own = set(own)
    for weights in found:
        _prune(weights, own)
        weights.n_known = len(own & weights.values.keys())
    known = [weights for weights in found if weights.n_known]
    return sorted(known or found, key=lambda x: (x.is_average, -x.n_known))


def holds_module(content: Any) -> bool:
    """Tell whether a file holds a pickled network."""
    return any(isinstance(x, StandIn) and x.is_module for _, x in _walk(content, ""))


def _walk(value: Any, place: str, seen: frozenset[int] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Yield what a file holds, and all inside of it, with its place."""
    yield place, value
    if id(value) in seen:
        return  # a dictionary that holds itself
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, inner in items:
        if not isinstance(inner, Tensor):
            name = f"{place}.{key}" if place else str(key)
            yield from _walk(inner, name, seen | {id(value)})


def _dictionaries(content: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the dictionaries that hold tensors by name, with their places."""
    return [
        (place, {key: x for key, x in value.items() if isinstance(key, str)})
        for place, value in _walk(content, "")
        if isinstance(value, Mapping)
        and any(isinstance(k, str) and isinstance(x, Tensor) for k, x in value.items())
    ]


def _unwrapped(key: str) -> str:
    for wrapper in WRAPPERS:
        key = re.sub(rf"(^|(?<=\.)){re.escape(wrapper)}", "", key)
    return key


def _prefixes(names: Collection[str], own: Collection[str]) -> list[tuple[str, str]]:
    """Return what may have to be taken off a file's names, and put in front of them.

    A prefix may be one if a name is the network's own without it. Where all of the network's own
    names begin alike, the file may also lack this beginning.
    """
    begin = _beginning(own)
    short = {name.removeprefix(begin) for name in own} if begin else set()
    votes: Counter[tuple[str, str]] = Counter()
    for name in names:
        parts = name.split(".")
        for i in range(len(parts)):
            rest = ".".join(parts[i:])
            prefix = name.removesuffix(rest)
            rest = rest.removesuffix(ORIG)
            votes[prefix, ""] += rest in own
            votes[prefix, begin] += rest in short
    return [pair for pair, count in votes.items() if count] or [("", "")]


def _beginning(names: Collection[str]) -> str:
    """Return the modules in which all names lie, such as ``net.``."""
    first, *_ = shared = [name.split(".")[:-1] for name in names]
    length = next(
        (i for i, parts in enumerate(zip(*shared, strict=False)) if len(set(parts)) > 1),
        min(map(len, shared)),
    )
    return "".join(f"{part}." for part in first[:length])


def _renamed(
    place: str, dictionary: Mapping[str, Any], names: Mapping[str, str], prefix: str, added: str
) -> Weights:
    found = Weights(place, prefix, added)
    found.wrappers = [w for w in WRAPPERS if any(w in key and names[key] != key for key in names)]
    for key, value in dictionary.items():
        if not names[key].startswith(prefix):
            found.outside.append(key)
            continue
        name = added + names[key].removeprefix(prefix)
        found.values[name] = value
        found.keys[name] = f"{place}.{key}" if place else key
    return found


def _prune(weights: Weights, own: set[str]) -> None:
    """Multiply pruned weights with their masks, where the network has none of its own."""
    values = weights.values
    for orig in [name for name in values if name.endswith(ORIG)]:
        name = orig.removesuffix(ORIG)
        weight, mask = values[orig], values.get(name + MASK)
        if name not in own or orig in own or not isinstance(weight, Tensor):
            continue
        if isinstance(mask, Tensor) and mask.shape == weight.shape:
            weights.keys[name] = weights.keys[orig]
            del values[orig]
            if name + MASK in own:  # it was pruned before it was quantized
                values[name] = weight
                continue
            del values[name + MASK]
            values[name] = weight * mask
            weights.pruned.append(name)


def _is_safetensors(path: Path) -> bool:
    if path.suffix == SAFETENSORS:
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:  # the length of a header of JSON, and this
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def with_checksum(content: bytes) -> bytes:
    """Return a ``.safetensors`` file whose metadata has :data:`NO_CHECKSUM`, with its own."""
    found = hashlib.sha256(content).hexdigest()
    return content.replace(NO_CHECKSUM.encode(), found.encode(), 1)


def _has_checksum(path: Path, expected: str) -> bool:
    """Tell whether a ``.safetensors`` file has the sum that stands in it."""
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        found = hashlib.sha256(length + header.replace(expected.encode(), NO_CHECKSUM.encode(), 1))
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest() == expected


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        check_regular(path)
    except ConfigError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        raise CheckpointError(f"{path} does not exist" if missing else str(error)) from error
    try:
        with safe_open(path, "pt") as file:
            keys, texts = file.keys(), file.metadata() or {}
            state = {key: file.get_tensor(key) for key in keys}
        valid = SHA256 not in texts or _has_checksum(path, texts[SHA256])
    except Exception as error:  # a file of another kind can stop the reader in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or no safetensors file: {reason}") from error
    if not valid:
        raise CheckpointError(f"{path} is damaged: its checksum is wrong")
    kept = [key for key in texts if key.endswith(f".{EXTRA_STATE}") or key == DRAWN]
    return {**state, **{key: texts[key] for key in kept}}
