# SPDX-License-Identifier: Apache-2.0
"""What runs on servers: reading interactions, training, bundling, planning, delivering."""
