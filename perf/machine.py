"""The facts of a machine without which no number means anything."""

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kalshibook.store.nested import HAS_C_VECTOR

__all__ = ["machine_facts"]

_PACKAGES = (
    "msgspec",
    "pyrsistent",
    "confluent-kafka",
    "trio",
    "quart",
    "hypercorn",
    "trio-websocket",
    "wsproto",
)


def machine_facts() -> dict[str, str]:
    """Return what the report prints of this machine: name to value."""
    return {
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": _commit(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "interpreter lock": "off" if not getattr(sys, "_is_gil_enabled", lambda: True)() else "on",
        "pyrsistent's C vector": "yes" if HAS_C_VECTOR else "no",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GB",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            " with changes" if git("status", "--porcelain", "src") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
