"""What mkdocs.yml needs beyond plugins: links to files outside of docs/, and docstrings that are made."""

import inspect
import os
import re

import griffe

LINK = re.compile(r"(\]\()(\.\./[^)#]*)")


def on_page_markdown(markdown, page, config, **_):
    """Lets links to files outside of docs/ lead to the repository."""
    folder = os.path.dirname(page.file.src_uri)

    def address(match):
        path = os.path.normpath(os.path.join("docs", folder, match[2]))
        if path.startswith("docs" + os.sep):
            return match[0]
        kind = "tree" if os.path.isdir(path) else "blob"
        return f"{match[1]}{config.repo_url}/{kind}/main/{path}"

    return LINK.sub(address, markdown)


class Builders(griffe.Extension):
    """Gives the named builders the docstrings that `applications.py` makes."""

    def on_attribute_instance(self, *, attr, **_):
        if attr.parent.path == "convmixer_keras.applications" and attr.name.startswith("ConvMixer"):
            from convmixer_keras import applications

            made = inspect.cleandoc(getattr(applications, attr.name).__doc__)
            options = {"warnings": False}  # It has no signature to compare with.
            attr.docstring = griffe.Docstring(made, parent=attr, parser="google", parser_options=options)
