"""Where things are: local paths in settings, the default store, the settings files of the package.

A path may start with `~`; a relative one starts at the folder of its file. Anything with a scheme (`s3://`,
`http://`) is refused by name: this version reads and stores locally. Nothing here opens a file.
"""

from __future__ import annotations

import re
from pathlib import Path

from nightrank.config.reading import expand_variables

DEFAULT_STORE = "${NIGHTRANK_HOME:-~/.nightrank}/store"

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


def nightrank_home() -> Path:
    """The folder of data sets and of the default store, absolute: $NIGHTRANK_HOME or ~/.nightrank."""
    return Path(home_store()).expanduser().parent


def default_store() -> str:
    """The store where no file and no option names one, absolute."""
    return str(nightrank_home() / "store")


def home_store() -> str:
    """DEFAULT_STORE with its variable expanded; `~` is kept for `absolute_path`."""
    return str(expand_variables({"store": DEFAULT_STORE}, source="the default store")["store"])


def find_settings(name: str, given: Path | None) -> Path:
    """`given`, else ./`name`, else the installed package's copy, else the source checkout's."""
    if given is not None:
        return given
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent.parent / name
    candidates = (Path(name), package / name)
    return next((path for path in candidates if path.is_file()), checkout)


def check_local(value: str) -> str:
    """The value itself if it can be a local path. Raises ValueError (for a pydantic validator)."""
    scheme = _SCHEME.match(value)
    if scheme is not None:
        cure = f"this version stores locally, {scheme.group()} is not available; give a local path"
        raise ValueError(f'found "{value}"; {cure}')
    if value.strip() == "":
        raise ValueError(f'found "{value}", expected a path')
    if "\0" in value:
        raise ValueError("found a path with a NUL byte, expected a path")
    return value


def is_relative(value: str) -> bool:
    """Whether the path depends on where it is read from."""
    return not _home_expanded(value).is_absolute()


def absolute_path(value: str, *, base: Path) -> str:
    """`~` expanded, relative paths put below `base`; globs and `..` stay as written."""
    return str(base.absolute() / _home_expanded(value))


def _home_expanded(value: str) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f'found "{value}", but that home folder is unknown; write the path out') from None
