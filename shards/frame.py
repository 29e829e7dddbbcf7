"""The frame of all pages of HTML: one file that needs nothing else, light and dark, on a phone and on a desktop."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

FRAME = "frame.html"


def fill_page(
    package: str, template: str, *, filters: dict[str, Callable[..., str]] | None = None, **content: Any
) -> bytes:
    """The page of a template: a file of ``package`` that extends ``frame.html``. What is filled in is text in it, never
    markup.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def source(name: str) -> str:
        return files(__package__ if name == FRAME else package).joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters or {}
    return environment.get_template(template).render(content).encode()
