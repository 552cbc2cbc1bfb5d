"""The README's output of `make demo` is what the demonstration prints."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "platform/nightrank/cli/demo.py"

OTHER_RUNS = ("failed:", "(done before:", "refused")  # not on a first run that goes well


def printed() -> list[str]:
    """The fixed texts of every heading and line that the demonstration prints on a first run."""
    texts = []
    for node in ast.walk(ast.parse(DEMO.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("_heading", "typer.echo"):
            text = node.args[0]
            for part in text.values if isinstance(text, ast.JoinedStr) else [text]:
                if isinstance(part, ast.Constant):
                    texts += [line.strip() for line in str(part.value).splitlines()]
    return [text for text in texts if len(text) > 5]


def test_the_readme_shows_what_the_demo_prints() -> None:
    """Whoever changes a line of the demonstration is told to run it again for the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(printed()) > 15
    assert [text for text in printed() if text not in readme and text not in OTHER_RUNS] == []
