# SPDX-License-Identifier: Apache-2.0
"""How widths are chosen on the cloud, and the baselines that a personal choice must beat."""
