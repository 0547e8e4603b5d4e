# SPDX-License-Identifier: Apache-2.0
"""Real text that is on every machine with Python: the standard library's sources.

Docstrings labelled by the package they come from (for classification), and names in code labelled
by the part they play (for tagging). They are read where they lie; nothing of them is shipped.
"""

from __future__ import annotations

import ast
import io
import keyword
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

TOPICS = ("asyncio", "email", "http", "multiprocessing", "tkinter", "unittest", "xml", "logging")
ROLES = ("argument", "attribute", "class", "function", "module", "variable")


def sources(package: str = "") -> list[Path]:
    """Python files of the standard library, or of one of its packages, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    skip = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib", "lib2to3"}
    if package:
        found = list((root / package).rglob("*.py")) + list(root.glob(f"{package}.py"))
    else:
        found = list(root.glob("*.py")) + [p for t in TOPICS for p in (root / t).rglob("*.py")]
    return sorted(p for p in found if not skip & set(p.relative_to(root).parts))


def _trees(package: str = "") -> Iterator[tuple[str, ast.Module]]:
    for path in sources(package):
        try:
            text = path.read_text(encoding="utf-8")
            yield text, ast.parse(text)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue


def topics() -> list[tuple[str, str]]:
    """(first sentences of a docstring or comment, package)."""
    found: dict[str, str] = {}
    for topic in TOPICS:
        for source, tree in _trees(topic):
            for node in ast.walk(tree):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    text = ast.get_docstring(node) or ""
                    for part in text.split("\n\n")[:3]:
                        line = " ".join(part.split())
                        if len(line.split()) >= 4:
                            found.setdefault(line, topic)
            for line in source.splitlines():
                comment = line.strip().removeprefix("# ").strip()
                if line.strip().startswith("# ") and len(comment.split()) >= 5:
                    found.setdefault(comment, topic)
    return list(found.items())


def _roles(tree: ast.Module) -> dict[tuple[int, int], str]:
    """Where a name stands -> what it is."""
    found: dict[tuple[int, int], str] = {}
    called = {
        (n.func.lineno, n.func.col_offset)
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            at = (node.lineno, node.col_offset)
            found[at] = "function" if at in called else "variable"
        elif isinstance(node, ast.arg):
            found[node.lineno, node.col_offset] = "argument"
        elif isinstance(node, ast.Attribute) and node.end_col_offset is not None:
            found[node.end_lineno or 0, node.end_col_offset - len(node.attr)] = "attribute"
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            word = {ast.FunctionDef: 4, ast.AsyncFunctionDef: 10, ast.ClassDef: 6}[type(node)]
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            found[node.lineno, node.col_offset + word] = kind
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                found[alias.lineno, alias.col_offset] = "module"
    return found


def tagged_lines(limit: int | None = None) -> list[tuple[list[str], list[str]]]:
    """(tokens, tags) of lines of code; a tag is a role of a name, or O."""
    lines: list[tuple[list[str], list[str]]] = []
    for text, tree in _trees():
        roles = _roles(tree)
        words: list[str] = []
        tags: list[str] = []
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.NEWLINE, tokenize.NL):
                if len(words) > 3 and any(tag != "O" for tag in tags):
                    lines.append((words, tags))
                words, tags = [], []
            elif token.type == tokenize.NAME:
                words.append(token.string)
                role = "O" if keyword.iskeyword(token.string) else roles.get(token.start, "O")
                tags.append(role)
            elif token.type in (tokenize.OP, tokenize.NUMBER):
                words.append(token.string)
                tags.append("O")
            elif token.type == tokenize.STRING:
                words.append('"text"')
                tags.append("O")
        if limit is not None and len(lines) >= limit:
            return lines[:limit]
    return lines
