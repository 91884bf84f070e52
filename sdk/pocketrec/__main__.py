# SPDX-License-Identifier: Apache-2.0
"""Run the command line as ``python -m pocketrec``."""

from __future__ import annotations

from pocketrec.cli import main

if __name__ == "__main__":
    main(prog_name="pocketrec")
