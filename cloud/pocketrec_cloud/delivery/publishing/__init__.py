# SPDX-License-Identifier: Apache-2.0
"""What is published: TUF metadata over content-addressed files.

``repository`` makes one, ``bundles`` and ``remote`` put bundles into it, ``rotation`` replaces
keys, ``publication`` reads what is published. Files lie in a folder or a bucket
(``artifacts``), named as ``layout`` says.
"""

from __future__ import annotations

__all__: list[str] = []
