"""Names of layers, made of those of cells."""

from __future__ import annotations

import hashlib
import keyword
import re

LONGEST = 100  # characters; YAML reads no key of more than 1024 back

# Attributes of the layer graph and of what torch.fx makes of it, and what it calls that in its
# code: no layer can have these names.
RESERVED = {
    *("self", "image", "input_shape", "outputs", "shapes", "graph", "code", "shape_env"),
    *("add_module", "add_submodule", "apply", "bfloat16", "buffers", "call_super_init"),
    *("children", "compile", "cpu", "cuda", "delete_all_unused_submodules", "delete_submodule"),
    *("double", "dump_patches", "eval", "extra_repr", "float", "forward", "get_buffer"),
    *("get_extra_state", "get_parameter", "get_submodule", "half", "ipu", "load_state_dict"),
    *("meta", "modules", "mtia", "named_buffers", "named_children", "named_modules"),
    *("named_parameters", "parameters", "print_readable", "recompile", "register_backward_hook"),
    *("register_buffer", "register_forward_hook", "register_forward_pre_hook"),
    *("register_full_backward_hook", "register_full_backward_pre_hook"),
    *("register_load_state_dict_post_hook", "register_load_state_dict_pre_hook"),
    *("register_module", "register_parameter", "register_state_dict_post_hook"),
    *("register_state_dict_pre_hook", "requires_grad_", "set_extra_state", "set_submodule"),
    *("share_memory", "state_dict", "to", "to_empty", "to_folder", "train", "training", "type"),
    *("xpu", "zero_grad", "T_destination"),
}


class Names:
    """Gives each layer a name that is a Python identifier, and no two the same."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.numbers: dict[str, int] = {}

    def unique(self, wanted: str) -> str:
        """Return ``wanted``, or what of it can be a name, and remember it."""
        name = re.sub(r"\W", "_", wanted, flags=re.ASCII)
        if not name[:1].isalpha():
            name = f"layer_{name.lstrip('_')}"
        if len(name) > LONGEST:  # a digest tells apart what looks the same
            name = f"{name[: LONGEST - 17]}_{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
        if name in RESERVED or keyword.iskeyword(name):
            name += "_"
        unique, number = name, self.numbers.get(name, 1)
        while unique in self.taken:
            number += 1
            unique = f"{name}_{number}"
        self.numbers[name] = number
        self.taken.add(unique)
        return unique
