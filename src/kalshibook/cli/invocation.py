"""How this program is called from another shell."""

import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["own_command"]

_NAME = "kalshibook"


def own_command() -> str:
    """
    Return what calls this program in a new terminal in the same folder.

    That is its name where a search would find it, and else the path it was started with: no other
    terminal knows the environment that is active in this one.
    """
    started = Path(sys.argv[0])
    if started.name != _NAME:
        return f"{shlex.quote(sys.executable)} -m {_NAME}"
    environment = Path(sys.prefix, "bin") if sys.prefix != sys.base_prefix else None
    folders = [folder for folder in os.get_exec_path() if Path(folder) != environment]
    found = shutil.which(_NAME, path=os.pathsep.join(folders))
    if found is not None and Path(found).resolve() == started.resolve():
        return _NAME
    here, path = Path.cwd(), started.absolute()
    if not path.is_relative_to(here):
        return shlex.quote(str(path))
    # With a slash: a bare name would be searched for.
    return shlex.quote(f"{os.curdir}/{path.name}" if path.parent == here else str(path.relative_to(here)))
