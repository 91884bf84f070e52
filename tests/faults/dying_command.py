# SPDX-License-Identifier: Apache-2.0
"""Runs one ``pocketrec`` command, which ends itself at one step of its work.

usage: python -m tests.faults.dying_command DEATH WORDS...
"""

from __future__ import annotations

import json
import sys

from tests.faults.deaths import plant

from pocketrec.cli import main

if __name__ == "__main__":
    plant(json.loads(sys.argv[1]))
    main(sys.argv[2:], prog_name="pocketrec")
