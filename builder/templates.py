"""Jinja2 templates: `templates/` of the source tree, or the copy inside the installed package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

_PACKAGE = Path(__file__).resolve().parent


def folder() -> Path:
    """Where the templates are, and what is taken as it is."""
    places = [_PACKAGE / "_templates", _PACKAGE.parent / "templates"]
    return next(place for place in places if place.is_dir())


@cache
def environment() -> jinja2.Environment:
    """Strict: a name that a template uses and nobody gives is an error. What a page says is escaped."""
    import jinja2  # here, for it is slow to import, and what was rendered before may be kept

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder()),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",), default=False),
    )
    made.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return made


def render(
    name: str,
    filters: Mapping[str, Callable[..., str]] | None = None,
    kept: jinja2.BytecodeCache | None = None,
    **values: Any,
) -> str:
    """One template with its values; `filters` are added for this rendering, what is compiled is `kept` there."""
    # The environment keeps what it has compiled, an overlay of it does not.
    made = environment()
    if filters:
        made = made.overlay(bytecode_cache=kept)
        made.filters = {**made.filters, **filters}
    return made.get_template(name).render(**values)
