"""What the tests of synthetic events share: a small recipe of either kind, made in a folder or as a table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from nightrank.data.synth_retail import RetailRecipe, make_retail
from nightrank.data.synth_scale import ScaleRecipe, make_scale, scale_blocks

ROOT = Path(__file__).resolve().parents[1]
RETAIL = RetailRecipe(users=300, items=120, events=9_000, seed=3)
SCALE = ScaleRecipe(users=300, items=120, events=9_000, seed=3)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make(out: Path, recipe: RetailRecipe | ScaleRecipe) -> None:
    if isinstance(recipe, RetailRecipe):
        make_retail(out, recipe)
    else:
        make_scale(out, recipe)


def scale(**settings: int) -> pa.Table:
    return pa.concat_tables(scale_blocks(ScaleRecipe(**settings)))
