# SPDX-License-Identifier: Apache-2.0
"""Print the lines of code per package, and every file and function past its budget.

Budgets: a file 300 lines (hard limit 500), a function 40 (hard limit 60). Past a
hard limit the report fails.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sdk", "proto", "quantization", "cloud", "device", "tests")


def main() -> int:
    """Print the report; return 1 when a hard limit is broken."""
    is_broken = False
    for package in PACKAGES:
        files = [p for p in sorted((ROOT / package).rglob("*.py")) if "_pb2" not in p.name]
        texts = {path: path.read_text(encoding="utf-8") for path in files}
        n_lines = {path: len(text.splitlines()) for path, text in texts.items()}
        print(f"{package:14}{len(files):4} files{sum(n_lines.values()):8} lines")
        for path, text in texts.items():
            where = path.relative_to(ROOT)
            if n_lines[path] > 300:
                print(f"    {where}: {n_lines[path]} lines")
                is_broken |= n_lines[path] > 500
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > 40:
                        print(f"    {where}:{node.lineno} {node.name}: {length} lines")
                        is_broken |= length > 60
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main())
