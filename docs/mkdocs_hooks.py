"""What mkdocs.yml needs beyond plugins: links to files outside of docs/, and docstrings that are made."""

import inspect
import os
import re

import griffe

LINK = re.compile(r"(\]\()(\.\./[^)#]*)")

_INSIDE = "keras.src.backend.common.keras_tensor."  # Where a KerasTensor is, which is keras.KerasTensor.


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
    """Shows the named builders, which `applications.py` makes, as the functions that they are."""

    def on_package(self, *, pkg, **_):
        if pkg.name != "convmixer_keras":
            return
        from convmixer_keras import applications, presets

        for name in (preset.name for preset in presets.PRESETS):
            made = getattr(applications, name)
            arguments = [
                griffe.Parameter(
                    argument.name,
                    annotation=inspect.formatannotation(argument.annotation).replace(_INSIDE, "keras."),
                    kind=griffe.ParameterKind.keyword_only,
                    default=repr(argument.default),
                )
                for argument in inspect.signature(made).parameters.values()
            ]
            docstring = griffe.Docstring(inspect.cleandoc(made.__doc__), parser="google")
            function = griffe.Function(
                name, parameters=griffe.Parameters(*arguments), returns="keras.Model", docstring=docstring
            )
            pkg["applications"].set_member(name, function)
