# SPDX-License-Identifier: Apache-2.0
"""What must stay true between files of this repository."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pocketrec import __version__, errors

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("sdk", "proto", "quantization", "cloud", "device")
MODULES = [
    path
    for root in SOURCE_ROOTS
    for path in sorted((ROOT / root).rglob("*.py"))
    if "_pb2" not in path.name
]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def exported_names(module: Path) -> list[str]:
    """Return the module's literal __all__; empty when it has none."""
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                names = ast.literal_eval(value)
                assert isinstance(names, list)
                return names
    return []


def bound_names(module: Path) -> set[str]:
    """Return every name that a module's own statements bind."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    names = {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    return names


def test_exports_exist() -> None:
    """Every name in a module's __all__ is bound in it, or made by its __getattr__."""
    missing = {
        f"{module.relative_to(ROOT)}: {name}"
        for module in MODULES
        for name in set(exported_names(module)) - bound_names(module)
        if "__getattr__" not in bound_names(module)
    }

    assert missing == set()


class TestErrorTree:
    def drawn(self) -> dict[str, str]:
        """Return parent by class, as the docstring of pocketrec.errors draws them."""
        parents: list[str] = []
        tree: dict[str, str] = {}
        for line in (errors.__doc__ or "").splitlines():
            match = re.match(r"    ([│ ]*[├└]─ )?([A-Z]\w+Error)\b", line)
            if match:
                depth = len(match[1] or "") // 3
                # The root's children are drawn one step in.
                tree[match[2]] = parents[depth - 1] if depth else "Exception"
                parents[depth:] = [match[2]]
        return tree

    def test_the_drawing_is_the_class_tree(self) -> None:
        """The docstring draws every class below its first base, and no other."""
        actual = {name: getattr(errors, name).__bases__[0].__name__ for name in errors.__all__}

        assert self.drawn() == actual


class TestDocuments:
    def test_the_changelog_knows_this_version(self) -> None:
        """The newest numbered section of the changelog is the package's version."""
        changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

        assert re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)[0] == __version__

    @pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
    def test_links_lead_somewhere(self, page: Path) -> None:
        """Every relative link of a page names a file of this repository."""
        links = re.findall(
            r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8")
        )

        missing = [link for link in links if not (page.parent / link).exists()]

        assert missing == []
