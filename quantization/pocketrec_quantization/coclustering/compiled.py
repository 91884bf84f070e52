# SPDX-License-Identifier: Apache-2.0
"""Compiles kernels when they are first needed, and keeps the machine code where it can.

Signatures are spelled out, so that everything is compiled at once and nothing later.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import TypeVar, cast

from pocketrec.errors import MissingExtraError

__all__ = ["compiled", "load_kernels", "require_libraries"]

Function = TypeVar("Function", bound=Callable[..., object])


def require_libraries() -> None:
    """Refuse to go on without what co-clustering needs.

    Raises:
        MissingExtraError: numba or scipy is not installed.
    """
    for name in ("numba", "scipy"):
        if find_spec(name) is None:
            raise MissingExtraError(
                f"co-clustering needs the package {name!r}, which is not installed; "
                "run `pip install 'pocketrec[cloud]'`"
            )


@cache
def load_kernels() -> ModuleType:
    """Return the module ``kernels``, compiled.

    The first time takes seconds, later processes a fraction of one: the code is kept beside
    the sources, or in the user's cache folder, unless neither can be written.

    Raises:
        MissingExtraError: numba or scipy is not installed.
    """
    require_libraries()
    from pocketrec_quantization.coclustering import kernels

    return kernels


def compiled(signature: str) -> Callable[[Function], Function]:
    """Return a decorator that makes machine code of a function, free of Python's lock.

    Args:
        signature: Types of result and arguments, in numba's notation.
    """
    import numba

    def decorate(function: Function) -> Function:
        try:
            kernel = numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # there is no folder to keep it in
            kernel = numba.njit(signature, nogil=True)(function)
        return cast("Function", kernel)

    return decorate
