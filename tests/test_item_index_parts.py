"""What the engine is given and what it keeps: prepared arrays, matrices that lie, compiled code on disk."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from nightrank import compiled
from nightrank.errors import DataError
from nightrank.ranking import ItemIndex, packing, product
from nightrank.ranking import index as index_module
from reference import assert_exact, assert_same, f32, float32_sums, gaussian, skewed

# Prepared arrays


@pytest.mark.parametrize("is_biased", [False, True])
def test_prepared_arrays_open_to_the_same_answers(tmp_path: Path, is_biased: bool) -> None:
    """Protects what processes share: saved, mapped and opened without a look at the vectors, equal bits."""
    rng = np.random.default_rng(6)
    users, items = gaussian(rng, 9, 10), skewed(rng, 700, 10)
    bias = gaussian(rng, 700, 1)[:, 0] if is_biased else None
    expected = assert_exact(users, items, bias, 12)
    prepared = packing.prepare(items, bias)
    for name, array in prepared.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in prepared}
    assert_same(ItemIndex(items, bias, threads=1, prepared=mapped).top_k(users, 12), expected)
    with float32_sums():  # a CPU that cannot use them prepares its own
        assert_same(ItemIndex(items, bias, threads=1, prepared=mapped).top_k(users, 12), expected)


def test_a_product_that_saturates_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the proof: sums that are not those of plain integers turn the int8 screen off, answers stay."""
    if product.has_integer_product():
        assert product.has_exact_product.__wrapped__()
        honest = product._sums
        monkeypatch.setattr(product, "_sums", lambda *a: np.clip(honest(*a), -(2**15), 2**15 - 1))
    assert not product.has_exact_product.__wrapped__()


def test_the_float32_screen_is_used_where_it_must_be() -> None:
    """Protects the fallback's tests: they do run float32 sums."""
    items = gaussian(np.random.default_rng(1), 5, 3)
    with float32_sums():
        assert ItemIndex(items)._kind == index_module.FLOAT


DAMAGE: dict[str, Callable[[Any], Any]] = {
    "a row twice": lambda p: p | {"order": np.zeros_like(p["order"])},
    "rows beyond": lambda p: p | {"order": p["order"] + 1},
    "another type": lambda p: p | {"order": p["order"].astype(np.int64)},
    "one missing": lambda p: {name: p[name] for name in p if name != "norms"},
    "fewer columns": lambda p: p | {"panels": p["panels"][:, :1].copy()},
    "fewer strips": lambda p: p | {"panels": p["panels"][:-1]},
    "strided": lambda p: p | {"panels": np.repeat(p["panels"], 2, axis=0)[::2]},
    "no blocks": lambda p: p | {"starts": p["starts"][::-1].copy()},
    "NaN": lambda p: p | {"residuals": np.full_like(p["residuals"], np.nan)},
    "negative": lambda p: p | {"scales": -p["scales"]},
    "other norms": lambda p: p | {"norms": p["norms"] * 2},
    "other vectors": lambda p: packing.prepare(gaussian(np.random.default_rng(1), 400, 10)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_prepared_arrays_are_refused(name: str) -> None:
    """Protects memory: compiled code follows what it is given, so nothing that does not fit gets there."""
    items, bias = gaussian(np.random.default_rng(0), 400, 10), f32(np.zeros(400))
    prepared = packing.prepare(items)
    packing.assemble(prepared, items, bias, is_integer=True)
    with pytest.raises(DataError, match="prepare the vectors again"):
        packing.assemble(DAMAGE[name](prepared), items, bias, is_integer=True)


@pytest.mark.parametrize("name", ["exclude", "allow"])
@pytest.mark.parametrize("fault", ["column", "negative", "order", "end"])
def test_matrices_that_lie_are_refused(name: str, fault: str) -> None:
    """Protects memory: scipy checks neither columns nor offsets, and a damaged file may hold anything."""
    cells = csr_matrix(np.ones((4, 300), dtype=np.float32))
    if fault in ("column", "negative"):
        cells.indices[7] = 300 if fault == "column" else -1
    else:
        cells.indptr[2 if fault == "order" else 4] = 10**6
    index = ItemIndex(gaussian(np.random.default_rng(0), 300, 4), threads=1)
    with pytest.raises(DataError, match=f"{name} (names columns|is no whole CSR)"):
        index.top_k(gaussian(np.random.default_rng(1), 4, 4), 3, **{name: cells})


def test_k_of_any_whole_number_type() -> None:
    """Protects callers with numpy integers: the same answer, no overflow; a fraction is refused."""
    index = ItemIndex(gaussian(np.random.default_rng(0), 300, 4), threads=1)
    users = gaussian(np.random.default_rng(1), 3, 4)
    for kind in (np.int32, np.uint8, np.int64):
        assert_same(index.top_k(users, kind(10)), index.top_k(users, 10))
    with pytest.raises(TypeError):
        index.top_k(users, 2.5)  # type: ignore[arg-type]


def test_an_index_travels() -> None:
    """Protects workers that are sent an index: the same answers on the other side."""
    index = ItemIndex(gaussian(np.random.default_rng(0), 300, 4), f32(np.arange(300)), threads=1)
    users = gaussian(np.random.default_rng(1), 3, 4)
    assert_same(pickle.loads(pickle.dumps(index)).top_k(users, 5), index.top_k(users, 5))


# Compiled code on disk

PROGRAM = """
import numpy as np
from pathlib import Path
from nightrank import compiled
from nightrank.ranking import canonical
print(compiled.cache_folder(Path(canonical.__file__).parent))
print(canonical.in_order(np.ones(3), np.ones(3, dtype=np.float32), np.float32(0.5)))
"""


def run(folder: Path, **more: str) -> tuple[str, float]:
    """The folder that a process keeps code in, and what a compiled function says in it."""
    env = os.environ | {"NUMBA_CACHE_DIR": str(folder)} | more
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True
    )
    kept, score = done.stdout.split()
    return kept, float(score)


def test_compiled_code_is_kept_and_damage_is_survived(tmp_path: Path) -> None:
    """Protects the second process, and every process after a torn write: it compiles what it cannot read."""
    kept, score = run(tmp_path)
    assert (Path(kept).parent, score) == (tmp_path, 3.5)
    files = sorted(Path(kept).rglob("*.nb*"))
    before = {file: file.stat().st_mtime_ns for file in files}
    assert run(tmp_path) == (kept, 3.5)
    assert files
    assert {file: file.stat().st_mtime_ns for file in files} == before
    for file in files:
        file.write_bytes(file.read_bytes()[:20] if file.suffix == ".nbc" else b"")
    assert run(tmp_path) == (kept, 3.5)
    assert all(file.stat().st_size > 20 for file in files)


def test_a_copy_of_the_package_finds_the_same_code(tmp_path: Path) -> None:
    """Protects every night from compiling anew: Ray unpacks the package into a new folder for each cluster."""
    kept, _ = run(tmp_path)
    before = {file: file.stat().st_mtime_ns for file in Path(kept).rglob("*.nb*")}
    package = Path(compiled.__file__).parent
    shutil.copytree(package, tmp_path / "copy" / "nightrank", ignore=shutil.ignore_patterns("__pycache__"))
    assert run(tmp_path, PYTHONPATH=str(tmp_path / "copy")) == (kept, 3.5)
    assert {file: file.stat().st_mtime_ns for file in Path(kept).rglob("*.nb*")} == before


def test_another_setting_of_the_compiler_is_another_folder(tmp_path: Path) -> None:
    """Protects answers from code that was compiled for other instructions."""
    assert run(tmp_path)[0] != run(tmp_path, NUMBA_CPU_NAME="generic")[0]


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    """Protects against code that somebody else put there: it is not read."""
    kept, _ = run(tmp_path)
    Path(kept).chmod(0o777)
    assert run(tmp_path) == ("None", 3.5)


def test_nowhere_to_write_means_compiling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Protects machines with a read-only home."""
    (tmp_path / "file").touch()
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "file"))
    assert compiled.cache_folder.__wrapped__(tmp_path) is None
