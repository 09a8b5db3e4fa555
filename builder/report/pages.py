"""A page: HTML that needs nothing but itself, runs no script but its own, and obeys nothing that it shows."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

from builder import __version__
from builder.report.spelled import spelled
from builder.templates import environment, render


def page(template: str, *, scripts: Sequence[str] = ("report.js",), **values: Any) -> str:
    """The page that a template (one that extends `page.html.j2`) makes of its values; it runs our `scripts`."""
    script = "".join(map(_source, scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = render(
        template,
        script=script,
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        version=__version__,
        **values,
    )
    return spelled(text, whole=True)


def _source(name: str) -> str:
    env = environment()
    assert env.loader is not None
    return env.loader.get_source(env, name)[0]
