"""docs/commands.md, and every command that a page mentions: commands, options and make targets exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click
import pytest
import typer

from nightrank.cli.app import app
from pages import COMMANDS, ROOT, TEXTS, blocks, column, rows_of, section


def commands(command: Any = None, path: str = "nightrank") -> Iterator[tuple[str, click.Command]]:
    """(full name, command) of everything that can be called; hidden ones are not for users."""
    command = typer.main.get_command(app) if command is None else command
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        if not inner.hidden:
            yield from commands(inner, f"{path} {name}")


REAL = dict(commands())


def spelled(command: click.Command) -> set[str]:
    """The options of a command as one types them, and its arguments in capitals."""
    return {
        str(one.name).upper() if one.param_type_name == "argument" else max(one.opts, key=len)
        for one in command.params
        if one.name != "help"
    }


def test_every_command_is_documented_and_no_other() -> None:
    """commands.md has a section for each command of the Typer application."""
    assert sorted(re.findall(r"^### (nightrank .*)$", COMMANDS, re.M)) == sorted(REAL)


@pytest.mark.parametrize("name", sorted(REAL))
def test_every_option_is_documented_and_no_other(name: str) -> None:
    """The table of a command has its options and arguments, and says which are required."""
    rows = rows_of(section(COMMANDS, name), "option", "meaning")
    assert {row["option"] for row in rows} == spelled(REAL[name])
    required = {str(one.name) for one in REAL[name].params if one.required}
    said = {row["option"].strip("-").lower() for row in rows if "required" in row["meaning"]}
    assert said == required - ({"name"} if name == "nightrank data fetch" else set())


def test_every_make_target_is_documented_and_no_other() -> None:
    """commands.md and the Makefile name the same targets."""
    real = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert [name.removeprefix("make ") for name in column(COMMANDS, "target")] == sorted(
        real, key=lambda name: column(COMMANDS, "target").index(f"make {name}")
    )


def code_of(page: str) -> Iterator[str]:
    """Lines of shell blocks, of blocks without a language, and inline code."""
    for language in ("bash", ""):
        for block in blocks(page, language):
            yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S))


CALLS = sorted({(name, line.strip()) for name, page in TEXTS.items() for line in code_of(page)})


@pytest.mark.parametrize(
    ("page", "line"), [one for one in CALLS if re.match(r"(nightrank|make) [a-z]", one[1])], ids=str
)
def test_commands_that_pages_mention_exist(page: str, line: str) -> None:
    """A command or target that a reader may type, from README.md too, is there with its options."""
    words = line.split("#")[0].split()
    if words[0] == "make":
        assert words[1] in re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
        return
    names = [name for name in REAL if words[: len(name.split())] == name.split()]
    if not names:
        assert any(name.startswith(" ".join(words)) for name in REAL)
        return
    (name,) = names
    assert {word for word in words if re.match(r"--?[a-z]", word)} <= spelled(REAL[name])
