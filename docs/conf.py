"""How the documentation is built: MyST pages, Mermaid drawn in the browser, reference from docstrings."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _generate import write_generated_pages

from kalshibook import __version__

project = "kalshibook"
author = "The kalshibook authors"
project_copyright = "The kalshibook authors"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_build", "examples/README.md", "reference/generated"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

# The browser draws the diagrams: building the pages needs no program beside Python.
mermaid_output_format = "raw"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Docstrings speak Markdown's single backticks; in reStructuredText they are code here, too.
default_role = "code"

# Links into other projects' pages would need the network while building.
intersphinx_mapping: dict[str, tuple[str, None]] = {}

html_theme = "furo"
html_title = "kalshibook"
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

write_generated_pages(Path(__file__).parent / "reference" / "generated")
