"""Sphinx's settings for `python -m tutorials book`."""

project = "PEFT from scratch"
author = "the founders of PEFT from scratch"
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
root_doc = "index"
include_patterns = ["index.md", "README.md", "GLOSSARY.md", "rendered/*.md"]
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
