"""What may import what, and that every public name is handed out on purpose."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import kalshibook

SOURCE = Path(kalshibook.__file__).parent

PURE = {"errors", "numbers"}

# Folder (or top-level module) to the parts of kalshibook that it may import; see docs/design.md.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "numbers": {"errors"},
    "wire": PURE,
    "store": {"wire", *PURE},
    "feeds": {"store", "wire", *PURE},
    "http": {"store", "wire", *PURE},
    "stream": {"store", "wire", *PURE},
    "simulator": {"http", "store", "stream", "wire", *PURE},
    "gather": {"feeds", "http", "store", "wire", *PURE},
    "archive": {"feeds", "simulator", "store", "wire", *PURE},
}

# Third-party packages that a folder may import; folders that are not named may import any.
MAY_USE: dict[str, set[str]] = {
    "errors": set(),
    "numbers": set(),
    "wire": {"msgspec"},
    "store": {"msgspec", "pyrsistent"},
    "feeds": {"msgspec", "confluent_kafka"},
    "simulator": {
        "cryptography",
        "hypercorn",
        "msgspec",
        "quart",
        "quart_trio",
        "trio",
        "trio_websocket",
        "werkzeug",
    },
    "gather": {
        *("confluent_kafka", "cryptography", "httpx", "hypercorn", "msgspec", "prometheus_client"),
        *("quart", "quart_trio", "stamina", "structlog", "trio", "trio_websocket", "wsproto"),
    },
    "archive": {
        "confluent_kafka",
        "duckdb",
        "httpx",
        "msgspec",
        "obstore",
        "prometheus_client",
        "psycopg",
        "pyarrow",
        "stamina",
    },
}

# Parts of simulator/ that talk to the network; the exchange itself is driven without a socket or a clock.
SIMULATOR_SHELLS = {"answers", "control", "rest", "server", "stream", "thread"}

# Parts of stream/ that talk to the network; the rest is driven by tests without a socket or a loop.
STREAM_SHELLS = {"changes", "connection", "heartbeat", "listener", "rounds", "socket", "transport"}


def parts() -> list[tuple[str, Path]]:
    """Return every module of the package with the folder or top-level module it belongs to."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE)
        found.append((relative.parts[0].removesuffix(".py"), path))
    return found


def imported(path: Path) -> set[str]:
    """Return the dotted names that a module imports, at its top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; absolute names can be searched for"
            names.add(str(node.module))
    return names


def is_standard(name: str) -> bool:
    """Tell whether a dotted name belongs to the standard library."""
    import sys

    return name.split(".", maxsplit=1)[0] in sys.stdlib_module_names


@pytest.mark.parametrize(("part", "path"), parts(), ids=lambda value: str(getattr(value, "name", value)))
def test_modules_import_only_what_the_design_allows(part: str, path: Path) -> None:
    """A folder reaches only for the folders and packages that its row of the table names."""
    for name in imported(path):
        if name.split(".")[0] == "kalshibook":
            other = name.split(".")[1] if "." in name else ""
            if part in MAY_IMPORT and other != part:
                assert other in MAY_IMPORT[part], f"{path} may not import {name}"
        elif part in MAY_USE and not is_standard(name):
            assert name.split(".")[0] in MAY_USE[part], f"{path} may not use {name}"


@pytest.mark.parametrize(
    "path", [path for part, path in parts() if part == "stream" and path.stem not in STREAM_SHELLS]
)
def test_the_core_of_the_stream_is_free_of_input_and_output(path: Path) -> None:
    """Sessions, outboxes and the hub know neither trio nor sockets."""
    assert not {"trio", "trio_websocket", "socket", "threading"} & {
        name.split(".", maxsplit=1)[0] for name in imported(path)
    }


@pytest.mark.parametrize(
    "path", [path for part, path in parts() if part == "simulator" and path.stem not in SIMULATOR_SHELLS]
)
def test_the_simulated_exchange_itself_is_free_of_input_and_output(path: Path) -> None:
    """Books, sessions and faults know neither trio nor sockets nor a clock."""
    assert not {"trio", "trio_websocket", "quart", "socket", "threading", "time"} & {
        name.split(".", maxsplit=1)[0] for name in imported(path)
    }


@pytest.mark.parametrize("path", [path for part, path in parts() if part in {"wire", "numbers", "errors"}])
def test_pure_modules_know_no_threads_and_no_clock(path: Path) -> None:
    """Numbers and wire formats depend on nothing but their input."""
    assert not {"threading", "time", "asyncio", "socket"} & imported(path)


def modules() -> list[str]:
    """Return the names of all modules that can be imported."""
    found = pkgutil.walk_packages(kalshibook.__path__, "kalshibook.")
    return ["kalshibook", *(module.name for module in found if not module.name.endswith("__main__"))]


def public_in(source: str) -> set[str]:
    """Return what a module defines, or hands on by ``import x as x``, without an underscore."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.name for alias in node.names if alias.asname == alias.name)
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("name", modules())
def test_every_public_name_is_in_all(name: str) -> None:
    """`__all__` names what exists, each once, and no public definition is missing."""
    module = importlib.import_module(name)
    declared = getattr(module, "__all__", [])
    public = public_in(Path(str(module.__file__)).read_text())

    assert set() == public - set(declared)
    assert len(set(declared)) == len(declared)
    for public_name in declared:
        assert hasattr(module, public_name), f"{name}.__all__ names {public_name}, which is not there"


def test_the_core_brings_no_web_stack() -> None:
    """Importing the package, its store and its feeds loads neither Trio nor a web framework."""
    import subprocess
    import sys

    code = (
        "import sys, kalshibook, kalshibook.store, kalshibook.feeds;"
        "web = ('trio', 'quart', 'hypercorn', 'structlog', 'click');"
        "print([name for name in web if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert "[]" == printed.strip()
