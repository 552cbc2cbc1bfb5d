"""Layers: who may import whom, who may import Ray, and that platform/ stays a bare source root."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "platform"
PACKAGE = SOURCE / "nightrank"

# DESIGN section 3: a line may import only lines above it. One line a level; batch and service share theirs.
LEVELS = [
    {"errors"},
    {"config", "compiled"},
    {"data"},
    {"models"},
    {"ranking"},
    {"quality"},
    {"release"},
    {"cluster"},
    {"batch", "service"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
MAY_IMPORT_RAY = {"cluster", "batch", "service", "cli"}

HIDDEN = "<computed>"  # an import whose name is no literal

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}
modules = pytest.mark.parametrize("module", sorted(MODULES))


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imports_of(source: ast.Module, *, module: str, is_package: bool) -> list[tuple[str, str | None]]:
    """(module, name or None) of every import, at any depth, relative ones resolved."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                up = parents[: len(parents) - node.level + (1 if is_package else 0)]
                base = ".".join([*up, base] if base else up)
            found += [(base, alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__"}:
            name = node.args[0]
            found.append((name.value if isinstance(name, ast.Constant) else HIDDEN, None))
    return found


def called(node: ast.Call) -> str:
    """The last part of the name that is called: `importlib.import_module` gives import_module."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def imports(module: str) -> list[tuple[str, str | None]]:
    file = MODULES[module]
    return imports_of(tree(file), module=module, is_package=file.name == "__init__.py")


def layer(module: str) -> str | None:
    """nightrank.data.ids: data; nightrank itself: None."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def imported_layers(found: list[tuple[str, str | None]]) -> set[str]:
    layers = set()
    for base, name in found:
        if base == "nightrank" and name is not None and not name.startswith("__"):
            layers.add(name)
        elif base.startswith("nightrank."):
            layers.add(base.split(".")[1])
    return layers


def breaches(own: str | None, found: list[tuple[str, str | None]]) -> list[str]:
    """What a module of layer `own` may not import, in words."""
    problems = []
    for other in sorted(imported_layers(found)):
        if own is None or (other != own and LEVEL[other] >= LEVEL[own]):
            problems.append(f"{own} imports {other}, which is not above it")
    if own not in MAY_IMPORT_RAY and any(base.split(".")[0] == "ray" for base, _ in found):
        problems.append(f"{own} imports ray")
    return problems


# The rules


def test_every_package_has_a_place() -> None:
    """Protects the order from a package that no rule knows, and the rules from a name that is gone."""
    assert {layer(module) for module in MODULES} - {None} == set(LEVEL)


@modules
def test_imports_go_upwards(module: str) -> None:
    """Protects the layers: a module imports only from layers above its own, and Ray only where Ray belongs."""
    assert breaches(layer(module), imports(module)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nightrank.data.ids", "from nightrank.models import fit"),
        ("nightrank.data.ids", "def f():\n    import nightrank.models.als"),
        ("nightrank.data.ids", "from nightrank import models"),
        ("nightrank.data.ids", "from ..models import fit"),
        ("nightrank.data.ids", "from .. import models"),
        ("nightrank.data.ids", "if TYPE_CHECKING:\n    from ray import ObjectRef"),
        ("nightrank.release.store", "import ray.data as data"),
        ("nightrank.release.store", "importlib.import_module('ray._raylet')"),
        ("nightrank.release.store", "__import__('nightrank.service.app')"),
        ("nightrank.errors", "from nightrank.config.strict import load"),
        ("nightrank.batch.train", "from nightrank.service.answers import similar"),
        ("nightrank.service.app", "import nightrank.batch.run"),
        ("nightrank.cluster.session", "from nightrank.batch import run"),
        ("nightrank.batch.run", "from nightrank.cli.app import main"),
        ("nightrank", "from nightrank.errors import DataError"),
    ],
)
def test_the_walk_sees_every_form_of_import(module: str, source: str) -> None:
    """Protects the rule above from passing because it looks away: each of these is a breach."""
    found = imports_of(ast.parse(source), module=module, is_package=False)
    assert breaches(layer(module), found) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "nightrank.data.splits",
            "from nightrank.data.ids import Ids\nfrom .interactions import Interactions",
        ),
        ("nightrank.batch.score", "import ray\nfrom nightrank.cluster.session import threads"),
        (
            "nightrank.cli.demo",
            "from nightrank.batch import run\nfrom nightrank.service import deploy\nimport ray",
        ),
        ("nightrank.release.reader", "from nightrank import __version__, errors\nimport rayon"),
    ],
)
def test_the_walk_allows_what_is_allowed(module: str, source: str) -> None:
    """Protects the rule from refusing what the design permits."""
    assert breaches(layer(module), imports_of(ast.parse(source), module=module, is_package=False)) == []


@modules
def test_no_import_hides_its_name(module: str) -> None:
    """Protects the walk: a name computed at run time, or code in a string, would pass it unseen."""
    assert (HIDDEN, None) not in imports(module)
    calls = [node for node in ast.walk(tree(MODULES[module])) if isinstance(node, ast.Call)]
    assert not {node.func.id for node in calls if isinstance(node.func, ast.Name)} & {"exec", "eval"}


def test_the_layers_without_ray_run_without_ray() -> None:
    """Protects training and ranking as a library: importing all of it brings no Ray in, not even through others."""
    names = [module for module in MODULES if layer(module) not in MAY_IMPORT_RAY]
    assert len(names) > len(LEVEL)
    code = f"""
import sys
sys.modules["ray"] = None  # any import of it fails
import {", ".join(names)}
assert not [name for name in sys.modules if name.startswith("ray.")]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# platform/


def test_platform_is_a_bare_source_root() -> None:
    """Protects Python's own `platform`: no __init__.py and no file at all beside the package."""
    entries = [path.name for path in SOURCE.iterdir() if path.name not in {"__pycache__", ".DS_Store"}]
    assert entries == ["nightrank"]


def test_import_platform_is_the_standard_library() -> None:
    """Protects `import ray` from the checkout: with the repository root first on the path, platform is Python's."""
    run = subprocess.run(
        [sys.executable, "-c", "import sys, platform; print(sys.path[:2]); print(platform.__file__)"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    path, file = run.stdout.splitlines()
    assert path == repr(["", str(ROOT)])
    assert Path(file).resolve() == Path(sysconfig.get_path("stdlib"), "platform.py").resolve()


# Surface


@modules
def test_every_module_says_what_it_is_for(module: str) -> None:
    """Protects readers: a module begins with a docstring of three words or more."""
    docstring = ast.get_docstring(tree(MODULES[module]))
    assert docstring is not None
    assert len(docstring.split()) >= 3


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=lambda folder: folder.name)
def test_every_folder_is_a_package(folder: Path) -> None:
    """Protects the wheel: a folder without __init__.py would be left out of imports by name."""
    assert (folder / "__init__.py").is_file()


def bound_names(module: str) -> set[str]:
    """The names that a module defines or imports at its top level, also under if, try and with."""
    names = set()
    waiting: list[ast.AST] = list(tree(MODULES[module]).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            waiting += ast.iter_child_nodes(node)
    return names


@modules
def test_imported_names_exist(module: str) -> None:
    """Protects every import of ours, also those inside functions, without running them."""
    for base, name in imports(module):
        if base.split(".")[0] != "nightrank":
            continue
        assert base in MODULES, base
        if name is not None:
            assert f"{base}.{name}" in MODULES or name in bound_names(base), f"{base}.{name}"


def exported(module: str) -> list[str] | None:
    for node in tree(MODULES[module]).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


EXPORTING = [module for module in sorted(MODULES) if exported(module) is not None]


def test_the_stable_surface_is_exported() -> None:
    """Protects DESIGN section 9: these names stay where callers import them from."""
    surface = {
        "nightrank.ranking": "ItemIndex",
        "nightrank.release": "open_release",
        "nightrank.models": "fit",
    }
    for module, name in surface.items():
        assert name in (exported(module) or [])
    assert "nightrank.quality.metrics" in MODULES


@pytest.mark.parametrize("module", EXPORTING)
def test_all_names_exist(module: str) -> None:
    """Protects `__all__`: sorted, each once, each there; a package's __init__ exports all that it imports of ours."""
    names = exported(module)
    assert names is not None
    assert names == sorted(set(names))
    if layer(module) not in MAY_IMPORT_RAY:
        loaded = importlib.import_module(module)
        assert [name for name in names if not hasattr(loaded, name)] == []
    assert set(names) <= bound_names(module)
    if MODULES[module].name == "__init__.py":
        ours = {name for base, name in imports(module) if base.startswith("nightrank.")}
        assert ours == set(names)
