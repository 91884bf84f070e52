# SPDX-License-Identifier: Apache-2.0
"""Package ``pocketrec.v1``: what is written here is read for as long as version 1 lives."""
