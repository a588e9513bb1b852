"""Pages in Vietnamese say so to the browser: hyphens, fonts and screen readers follow the page's `lang`."""

VIETNAMESE = ("tutorials/vi",)


def setup(app):
    app.connect("html-page-context", _say_language)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _say_language(app, pagename, templatename, context, doctree):
    if pagename in VIETNAMESE:
        context["language"] = "vi"
