"""All pages of docs/ and of the root: on the map, links that resolve, nothing that a user could not follow."""

from __future__ import annotations

import re

import pytest

from pages import DOCS, NAMES, PAGES, ROOT, TEXTS


def test_all_pages_are_there_and_on_the_map() -> None:
    """index.md links every page of the folder."""
    assert set(PAGES) == {f"{name}.md" for name in NAMES}
    for name in NAMES[1:]:
        assert f"[{name}.md]({name}.md)" in PAGES["index.md"]


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_links_between_pages_resolve(name: str) -> None:
    """Every relative link leads to a file, and to a heading in it where it names one."""
    base = DOCS if name in PAGES else ROOT
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = base / target if target else base / name
        assert path.is_file(), link
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_pages_stand_alone(name: str) -> None:
    """No page names a package registry's host, a path of some developer's machine, or papers users never see."""
    private = (
        r"pypi\.",
        r"pythonhosted",
        "/" + "work/",
        r"/root\b",
        r"/home/\w",
        r"shared/DESIGN",
        r"\bissues?\b",
    )
    found = [one for pattern in private for one in re.findall(pattern, TEXTS[name], re.I)]
    assert found == []
    assert str(ROOT) not in TEXTS[name]
