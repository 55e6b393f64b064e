"""A page as a browser takes it apart: its elements, and the documents of its frames."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from pathlib import Path

Element = tuple[str, dict[str, str | None]]


@dataclass
class Page(HTMLParser):
    """Elements and text of a document; those of a frame are a page of their own."""

    elements: list[Element] = field(default_factory=list)
    text: str = ""
    styles: list[str] = field(default_factory=list)
    frames: list[Page] = field(default_factory=list)

    @staticmethod
    def of(text: str) -> Page:
        page = Page()
        HTMLParser.__init__(page)
        page.feed(str(text))
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "iframe":
            given = dict(attrs)
            assert given["sandbox"] == ""
            assert not set(given) & {"src", "allow", "name"}
            self.frames.append(Page.of(given["srcdoc"] or ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style" and not self.styles:
            self.styles.append(data)
        else:
            self.text += data

    def of_tag(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def check_harmless(page: Page, *, below: Path | None = None, inner: bool = False) -> None:
    """Check that nothing in a page can do anything, in its frames neither."""
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "object", "embed", "form", "base", "link", "audio", "video", "use"}
    assert not (inner and tags & {"a", "iframe"})
    metas = page.of_tag("meta")
    (policy,) = (one["content"] for one in metas if "http-equiv" in one)
    (style,) = page.styles
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    # a policy holds for what comes after it
    names = [tag for tag, given in page.elements if tag in ("style", "meta")]
    assert names.index("style") > next(i for i, one in enumerate(metas) if "http-equiv" in one)
    for tag, given in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in given), (tag, given)
        source = given.get("src")
        assert source is None or source.startswith("data:image/")
        if "href" in given:
            assert below is not None
            assert (below / unquote(given["href"] or "")).is_file()
    for one in page.frames:
        check_harmless(one, inner=True)
