"""The compiled operators ``torch.ops.edufast.*``: loading, registering, calling.

Nothing compiles at import and nothing falls back silently.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edufast.utils._torch_private import Operator, is_transformed, is_transforming, schema_of


def library() -> str:
    """The path of the shared library.

    An editable install has a second folder for what was compiled. The variable is for builds that
    are tested without being installed (make sanitize).
    """
    named = os.environ.get("EDUFAST_LIBRARY")
    if named:
        return named
    for folder in sys.modules["edufast"].__path__:
        path = Path(folder, "libedufast.so")
        if path.is_file():
            return str(path)
    raise ImportError(
        "EduFast's compiled operators are missing: install the package with `pip install .` "
        "(or `make build` in a checkout)."
    )


torch.ops.load_library(library())

_LIBRARY = torch.library.Library("edufast", "FRAGMENT")


def register(
    operator: Operator,
    fake: Callable[..., Any],
    autograd: Callable[..., Any] | None = None,
    cpu: Callable[..., Any] | None = None,
) -> None:
    """Register what an operator needs besides its kernels.

    Args:
        operator: ``torch.ops.edufast.<name>.default``.
        fake: gives results of the right shapes for arguments without data.
        autograd: the kernel for the dispatch key Autograd; None: there is no derivative.
        cpu: the kernel for the CPU, if C++ has none.
    """
    name = operator.name()
    torch.library.register_fake(name, fake, lib=_LIBRARY)
    _LIBRARY.impl(name, autograd or torch.library.fallthrough_kernel, "Autograd")
    if cpu is not None:
        _LIBRARY.impl(name, cpu, "CPU")


def register_in_place(operator: Operator, kernel: Callable[..., None]) -> None:
    """The bookkeeping of an operator that writes to its arguments; ``kernel`` gets the keyset."""
    _LIBRARY.impl(operator.name(), kernel, "ADInplaceOrView", with_keyset=True)


def define_like(operator: Operator, name: str, kernel: Callable[..., Any]) -> Operator:
    """A new operator ``edufast::<name>`` with the schema of ``operator``, for CPU and CUDA tensors.

    It is opaque to Inductor, which would have nothing to fuse with a kernel in Triton.
    """
    _LIBRARY.define(name + schema_of(operator))
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, kernel, key)
    defined: Operator = getattr(torch.ops.edufast, name).default
    return defined


# Messages of the checks in C++; some builds of torch put the place in the source in front.
_REFUSAL = re.compile(r"(?:\w+, [^,\n]*:\d+, )?(merge_: .*|.*; expected .*)")


def checked(call: Callable[..., Any], *arguments: Any) -> Any:
    """``call(*arguments)``. What the checks in C++ refuse becomes a ValueError of one line; a call
    under torch.func becomes a RuntimeError that says what to do instead."""
    try:
        return call(*arguments)
    except RuntimeError as error:
        if torch.compiler.is_compiling():
            raise
        transformed = is_transformed(*arguments)
        refusal = _REFUSAL.match(str(error))
        if type(error) is RuntimeError and refusal and not transformed:
            raise ValueError(refusal[1]) from None
        if transformed or is_transforming():
            raise RuntimeError(
                "the fused backends take no part in torch.func's transforms (grad, vmap, jvp); "
                "use backend='reference'"
            ) from None
        raise
