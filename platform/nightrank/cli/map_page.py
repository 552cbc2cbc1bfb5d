"""The map of items as one page: no file beside it, nothing loaded from elsewhere, and no script but its own.

What comes from the release (titles, ids, categories) goes in as data that cannot end its element, and the page puts
it on the screen as text alone. A policy in the page itself lets nothing else run or load, whatever stands in a title.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from pathlib import Path

from nightrank.cli.map_legend import grouped
from nightrank.release.item_map import ItemMap
from nightrank.release.store import replacing

_PART = re.compile(r"%%([A-Z]+)%%")


def write_page(path: Path, drawn: ItemMap, *, by_category: bool) -> None:
    """Write the page and put it in place in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(page(drawn, by_category=by_category))


def page(drawn: ItemMap, *, by_category: bool) -> bytes:
    """UTF-8 HTML of the map."""
    template = files("nightrank.cli").joinpath("map_page.html").read_text(encoding="utf-8")
    parts = {
        "POLICY": _policy(template),
        "TITLE": html.escape(f"Items of release {drawn.release} ({drawn.family})"),
        "SHOWN": html.escape(told(drawn).capitalize()),
        "DATA": _embedded(_data(drawn, by_category=by_category)),
    }
    return _PART.sub(
        lambda part: parts[part[1]], template
    ).encode()  # one pass: what is put in is not looked at


def told(drawn: ItemMap) -> str:
    """How many of the items are on the map, in words."""
    without = f"; {drawn.n_without} have no vector" if drawn.n_without else ""
    if len(drawn.items) == drawn.n_items:
        return f"all {drawn.n_items} items"
    return f"{len(drawn.items)} of {drawn.n_items} items, those with the most users{without}"


def _data(drawn: ItemMap, *, by_category: bool) -> dict[str, object]:
    groups, places = grouped(drawn, by_category=by_category)
    return {
        "groups": [[one.name, one.colour, one.n_items] for one in groups],
        "items": [
            [
                round(one.x, 4),
                round(one.y, 4),
                place,
                one.title,
                str(one.item_id),
                list(one.categories),
                one.users,
            ]
            for one, place in zip(drawn.items, places, strict=True)
        ],
    }


def _embedded(data: dict[str, object]) -> str:
    """JSON that no HTML parser takes for markup: no `<` is left in it, and it is ASCII."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(template: str) -> str:
    """Nothing loads, and only the style and the script of the template itself are let in, by their digests."""
    allowed = {}
    for name, pattern in {"style": r"<style>(.*?)</style>", "script": r"<script>(.*?)</script>"}.items():
        (text,) = re.findall(pattern, template, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[name] = f"{name}-src 'sha256-{digest}'"
    return f"default-src 'none'; {allowed['style']}; {allowed['script']}; base-uri 'none'; form-action 'none'"
