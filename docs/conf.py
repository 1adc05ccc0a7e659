"""Settings of the documentation site; `make docs` builds it. Nothing is fetched: no inventories, no fonts."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "src")]

import docstrings  # noqa: E402
import generate  # noqa: E402

import rootstock  # noqa: E402

project = "Rootstock"
release = version = rootstock.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "generated/*.md"]  # pages include those; generated/api/ is pages of its own
myst_enable_extensions = ["attrs_block", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "Rootstock"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
highlight_language = "none"  # most blocks are commands and what they print
pygments_style = "friendly"
pygments_dark_style = "native"

add_module_names = False
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # what spaCy documents needs no entry here
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
nitpick_ignore_regex = [
    ("py:.*", r"(spacy|thinc|torch|numpy|np|transformers|tokenizers|pathlib|collections|typing)\..*"),
    ("py:class", r"Path|Tokenizer|PreTrained\w+"),  # in annotations that nobody evaluates
]


def skip(app, what, name, obj, skip, options):
    """A field of a NamedTuple is described with its class."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def convert(app, what, name, obj, options, lines):
    fields = docstrings.fields_of(obj) if what == "class" else {}
    lines[:] = docstrings.converted(lines, docstrings.parameters_of(obj) - fields.keys())
    lines += [f":ivar {field}: {docstrings.literals(text)}" for field, text in fields.items()]


def setup(app):
    app.connect("builder-inited", lambda app: generate.write(HERE / "generated"))
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", convert)
