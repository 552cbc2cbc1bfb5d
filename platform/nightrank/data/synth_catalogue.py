"""Who buys and what is sold in the shop of `synth_retail`: users, items, and the taste that joins them.

A topic is one style of one category. Age and gender say which categories are likely; the rest of a user's taste is
nowhere in the tables, and of an item's styles only the first word of its title tells.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.data.synth_taste import cumulative, mixture, stream, zipf

# What a category is called, whom it draws, its median price and what its items are.
# Whom: the logarithm of its pull at 18 and at 80 years (a line between them), on women, on men.
_CATEGORIES: tuple[tuple[str, tuple[float, float, float, float], float, tuple[str, ...]], ...] = (
    ("accessories", (1.0, -0.5, 0.8, -0.2), 60.0, ("Backpack", "Belt", "Handbag", "Watch")),
    ("apparel", (1.2, -0.8, 0.6, 0.2), 80.0, ("Jacket", "Shirt", "Jeans", "Scarf")),
    ("beauty", (0.8, -0.4, 1.2, -1.5), 30.0, ("Lotion", "Shampoo", "Lipstick", "Soap")),
    ("books", (-0.5, 1.0, 0.3, 0.0), 18.0, ("Novel", "Atlas", "Cookbook", "Biography")),
    ("electronics", (1.4, -1.0, -0.8, 1.0), 350.0, ("Headphones", "Speaker", "Camera", "Keyboard")),
    ("floral", (-1.0, 1.2, 0.6, -0.4), 35.0, ("Bouquet", "Wreath", "Orchid", "Planter")),
    ("footwear", (1.0, -0.6, 0.4, 0.3), 95.0, ("Sneakers", "Boots", "Sandals", "Loafers")),
    ("furniture", (-0.6, 0.8, 0.2, 0.0), 280.0, ("Chair", "Table", "Lamp", "Shelf")),
    ("groceries", (-0.2, 0.6, 0.0, 0.0), 8.0, ("Coffee", "Honey", "Pasta", "Olive Oil")),
    ("instruments", (0.6, -0.2, -0.6, 0.8), 420.0, ("Guitar", "Drum", "Violin", "Flute")),
    ("outdoors", (0.6, -0.4, -0.4, 0.8), 120.0, ("Tent", "Kayak", "Lantern", "Fishing Rod")),
    ("tools", (-0.6, 0.6, -1.2, 1.2), 45.0, ("Hammer", "Drill", "Saw", "Wrench")),
)
_STYLES = ("Classic", "Modern", "Rustic", "Sporty")
_MATERIALS = ("Oak", "Linen", "Steel", "Nordic", "Alpine", "Coastal", "Amber", "Indigo", "Ivory", "Scarlet")
N_CATEGORIES = len(_CATEGORIES)
N_TOPICS = N_CATEGORIES * len(_STYLES)

_CATEGORY_FOCUS = 3.0  # sum of the Dirichlet weights of the categories: a user likes two or three of 12
_STYLE_FOCUS = 0.3  # Dirichlet weight of a style in a user's and in an item's mixture
_STRAY = 0.02  # of an item's pull goes to all topics alike
_ZIPF_SHIFT = 20.0


def make_users(n: int, *, seed: int) -> tuple[pa.Table, NDArray[np.float32]]:
    """The table, and each user's taste: shares of the topics (n_users, N_TOPICS)."""
    rng = stream(seed, 0)
    age = np.clip(np.round(rng.gamma(9.0, 4.0, size=n)), 18, 80)
    gender = rng.integers(0, 2, size=n)
    young, old, women, men = np.array([whom for _, whom, _, _ in _CATEGORIES]).T
    part = ((age - 18) / (80 - 18))[:, None]
    pull = np.exp((1 - part) * young + part * old + np.where(gender[:, None] == 0, women, men))
    pull *= _CATEGORY_FOCUS / pull.sum(axis=1, keepdims=True)
    categories = rng.standard_gamma(pull) + 1e-6
    categories /= categories.sum(axis=1, keepdims=True)
    styles = mixture(rng, _STYLE_FOCUS, size=(n * N_CATEGORIES, len(_STYLES)))
    styles = styles.reshape(n, N_CATEGORIES, len(_STYLES))
    liked = (categories[:, :, None] * styles).reshape(n, N_TOPICS).astype(np.float32)
    columns = {
        "user_id": pa.array(np.arange(1, n + 1)),
        "age": pa.array(age.astype(np.int32)),
        "gender": pa.array(np.array(["F", "M"])[gender], pa.string()),
    }
    return pa.table(columns), liked


def make_items(n: int, *, seed: int) -> tuple[pa.Table, NDArray[np.float64]]:
    """The table, and the cumulative shares of the items in every topic, flat (`synth_taste.cumulative`)."""
    rng = stream(seed, 1)
    rows = np.arange(n)
    category = rng.permutation(rows % N_CATEGORIES)  # each has an item, so that no topic is empty
    styles = mixture(rng, _STYLE_FOCUS, size=(n, len(_STYLES)))
    pull = np.full((n, N_CATEGORIES, len(_STYLES)), _STRAY / N_TOPICS)
    pull[rows, category] += styles
    pull *= zipf(n, shift=_ZIPF_SHIFT, rng=rng)[:, None, None]
    medians = np.array([median for _, _, median, _ in _CATEGORIES])
    price = np.ceil(medians[category] * rng.lognormal(0.0, 0.5, size=n)) - 0.01
    material = rng.integers(0, len(_MATERIALS), size=n)
    noun = rng.integers(0, len(_CATEGORIES[0][3]), size=n)
    style, nouns = styles.argmax(axis=1), [nouns for _, _, _, nouns in _CATEGORIES]
    titles = [
        f"{_STYLES[s]} {_MATERIALS[m]} {nouns[c][which]}"
        for s, m, c, which in zip(style, material, category, noun, strict=True)
    ]
    columns = {
        "item_id": pa.array(rows + 1),
        "title": pa.array(titles),
        "category": pa.array(np.array([name for name, *_ in _CATEGORIES])[category], pa.string()),
        "price": pa.array(np.round(price, 2)),
    }
    return pa.table(columns), cumulative(pull.reshape(n, N_TOPICS).T)
