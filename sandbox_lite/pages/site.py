"""How a page is made: escaped by default, with a policy that lets it do nothing, and frames.

A page has no script, and its policy forbids all but its own style, known by its digest, and
pictures that are part of it. What a model made stands in a frame of its own besides, whose sandbox
takes away scripts, forms and every way out.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from sandbox_lite.errors import HostError
from sandbox_lite.pages.text import clean

if TYPE_CHECKING:
    from pathlib import Path


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("sandbox_lite.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_harmless,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _harmless(value: Any) -> Any:
    # what is markup already was cleaned when it was made
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@functools.cache
def _style() -> tuple[Markup, str]:
    """Return the style, and the policy that allows it alone."""
    environment = _environment()
    assert environment.loader is not None
    text = environment.loader.get_source(environment, "style.css")[0]
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    return Markup(text), policy  # a file of ours


def render(template: str, **values: object) -> Markup:
    """Return a part of a page."""
    text = _environment().get_template(template).render(**values)
    return Markup(text)  # escaped by the template


def document(template: str, *, title: str, **values: object) -> str:
    """Return a whole page."""
    style, policy = _style()
    return render(template, title=title, style=style, policy=policy, **values)


def framed(template: str, *, title: str, size: str, **values: object) -> Markup:
    """Return a frame that shows what a model made.

    Args:
        template: Of the document inside.
        title: What it is, for who cannot see it.
        size: `page`: as high as the screen, `part`: a few lines.
        values: Of the template.
    """
    inner = document(template, title=title, **values)
    return render("frame.html", inner=str(inner), title=title, size=size)


def write(path: Path, text: str) -> None:
    """Write a page as a whole, or not at all.

    Raises:
        HostError: It cannot be written.
    """
    stage = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stage.write_bytes(text.encode(errors="replace"))
        stage.replace(path)
    except OSError as error:
        stage.unlink(missing_ok=True)
        raise HostError(
            f"cannot write {path}: {error.strerror}",
            hint="free some space, or name another place",
        ) from error
