"""Where things are: local paths in settings, the default store, the settings files of the package.

A path may start with `~`; a relative one starts at the folder of its file. A store may be `s3://bucket/prefix`;
anything else with a scheme is refused by name: events and items are read locally. Nothing here opens a file.
"""

from __future__ import annotations

import re
from pathlib import Path

from nightrank.config.reading import expand_variables

DEFAULT_STORE = "${NIGHTRANK_HOME:-~/.nightrank}/store"

_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?")
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
        cure = f"{scheme.group()} is not available here; give a local path"
        raise ValueError(f'found "{value}"; {cure}')
    if value.strip() == "":
        raise ValueError(f'found "{value}", expected a path')
    if "\0" in value:
        raise ValueError("found a path with a NUL byte, expected a path")
    return value


def check_store(value: str) -> str:
    """The value itself if it can be a store: a local path or s3://bucket/prefix. Raises ValueError."""
    scheme = _SCHEME.match(value)
    if scheme is None:
        return check_local(value)
    if _S3.fullmatch(value) is None or ".." in value.split("/"):
        raise ValueError(f'found "{value}"; a store is a local path or s3://bucket/prefix')
    return value


def is_relative(value: str) -> bool:
    """Whether the path depends on where it is read from."""
    return _S3.fullmatch(value) is None and not _home_expanded(value).is_absolute()


def absolute_path(value: str, *, base: Path) -> str:
    """`~` expanded, relative paths put below `base`; globs, `..` and s3:// stay as written."""
    return value if _S3.fullmatch(value) else str(base.absolute() / _home_expanded(value))


def _home_expanded(value: str) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f'found "{value}", but that home folder is unknown; write the path out') from None
