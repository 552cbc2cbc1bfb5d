"""How functions are compiled here: by numba on first use, kept on disk for the next process.

numba's own cache looks at the path and time of a function's file and at the CPU. So code compiled into a caller in
another file would outlive a change, code for one set of instructions a change of NUMBA_CPU_NAME, and every Ray
cluster, which unpacks the package into a folder of its own, would compile it all again. Here the folder is named by
all that the code depends on: the files of the function's own package (`ranking`, `models`) and this one, numba, the
CPU and the settings of numba; path and time are not looked at. So compiled code calls compiled code of its own
package alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding
import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numpy.typing import NDArray

from nightrank.errors import NightrankError

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """An entry from Python: without the GIL; may allocate."""
    return _compile(function, nogil=True)


def inner(function: Function) -> Function:
    """Called by compiled code alone, on arrays that its caller holds: it neither allocates nor counts references.

    numba counts every array that is touched, atomically, and that took more than half of the search's time.
    """
    return _compile(function, _nrt=False)


def inlined(function: Function) -> Function:
    """`inner`, made part of its caller: for what runs so often that passing dozens of arrays would show."""
    return _compile(function, _nrt=False, forceinline=True)


def reordered(function: Function) -> Function:
    """`inner`, and float sums may be done in any order, which lets them be vectorised."""
    return _compile(function, _nrt=False, fastmath={"reassoc", "contract"})


def read_only(array: NDArray[Any], kind: type[np.generic] | None = None) -> NDArray[Any]:
    """A view of the array, contiguous and of that kind, that cannot be written: compiled code is made for one kind of
    arrays, and a memory map or Ray's object store hands out ones that cannot be written."""
    view = np.ascontiguousarray(array, dtype=kind).view()
    view.flags.writeable = False
    return view


def _compile(function: Function, **options: Any) -> Function:
    if numba.config.DISABLE_JIT:
        raise NightrankError("NUMBA_DISABLE_JIT is set, and the engine is compiled code; unset it")
    dispatcher, before = numba.njit(**options)(function), numba.config.CACHE_DIR
    folder = cache_folder(Path(inspect.getfile(function)).parent)
    if folder is not None:
        try:
            numba.config.CACHE_DIR = folder  # or numba would look for a folder of its own, and may find none
            dispatcher._cache = _Cache(function, folder)
        finally:
            numba.config.CACHE_DIR = before
    result: Function = dispatcher
    return result


class _Cache(FunctionCache):  # type: ignore[misc]
    """Files in a folder whose name says what they are of; numba's own index would name path and time of the source.
    What cannot be read or written is compiled anew: a full disk or a torn file stops nobody."""

    def __init__(self, function: Callable[..., object], folder: str) -> None:
        super().__init__(function)
        self._cache_path = folder
        self._impl._locator = _Folder(folder)
        self._cache_file = IndexDataCacheFile(
            cache_path=folder, filename_base=self._impl.filename_base, source_stamp=(0, 0)
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unpickling a damaged file raises nearly anything
            with contextlib.suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(Exception):  # the code runs; the next process compiles it again
            super().save_overload(sig, data)


class _Folder:
    """Where numba writes: a folder that is there already."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def get_cache_path(self) -> str:
        return self._folder

    def ensure_cache_path(self) -> None:
        Path(self._folder).mkdir(exist_ok=True, mode=0o700)


@functools.cache
def cache_folder(package: Path) -> str | None:
    """Where a package's machine code is kept: below NUMBA_CACHE_DIR, or the user's cache folder. None where that
    cannot be written, or others may write there, since what is in it is run: then every process compiles alone."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nightrank"
        folder = Path(numba.config.CACHE_DIR or base) / _digest(package)
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        found = folder.stat()
    except (OSError, RuntimeError):  # no home, or a read-only one
        return None
    is_ours = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
    return str(folder) if is_ours and os.access(folder, os.W_OK) else None


def _digest(package: Path) -> str:
    features = llvmlite.binding.get_host_cpu_features().flatten()
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.binding.get_host_cpu_name()} {features}".encode())
    for name in sorted(
        name for name in os.environ if name.startswith("NUMBA_") and name != "NUMBA_CACHE_DIR"
    ):
        digest.update(f"{name}={os.environ[name]}\n".encode())
    for file in (Path(__file__), *sorted(package.glob("*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
