"""Sphinx's settings for `python -m tutorials book`."""

from pathlib import Path

project = "PEFT from scratch"
author = "the founders of PEFT from scratch"
extensions = ["myst_parser", "tutorials.book.mathml", "tutorials.book.languages"]
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
html_theme = "furo"
html_title = project
html_css_files = ["style.css"]
html_static_path = ["style.css", "scripts"]
html_js_files = ["questions.js", "widgets.js", *sorted(file.name for file in Path(__file__).parent.glob("scripts/widget_*.js"))]
html_copy_source = False
html_show_search_summary = False  # it would fetch pages, which a browser forbids for file://
python_maximum_signature_line_length = 90
python_display_short_literal_types = True
python_use_unqualified_type_names = True
toc_object_entries = False
html_show_copyright = False
pygments_dark_style = "github-dark"
smartquotes = False
root_doc = "index"
# `header`: a report may start at a second heading; `highlighting`: a lesson prints text that is no Python
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
