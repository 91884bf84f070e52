# SPDX-License-Identifier: Apache-2.0
"""Imports third-party runtimes with their telemetry off."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pocketrec.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["import_onnxruntime"]


def import_onnxruntime() -> ModuleType:
    """Return onnxruntime, told twice to send nothing.

    Its official builds send usage data unless the environment says otherwise before the
    import; the call afterwards covers an application that imported it first.

    Returns:
        The module.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "running ONNX graphs needs the package 'onnxruntime', which is not installed; "
            "run `pip install 'pocketrec[device]'`"
        ) from error
    onnxruntime.disable_telemetry_events()
    module: ModuleType = onnxruntime
    return module
