# SPDX-License-Identifier: Apache-2.0
"""Item tables at a fraction of their bytes: codebooks in place of one float row per item."""
