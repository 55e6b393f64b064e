"""A poster as SVG: its shape, its words as they are seen, what it is drawn of."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from sandbox_lite.bench.graders.grader import Grader, Question, Verdict, demanded, wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

_SVG = "{http://www.w3.org/2000/svg}"
_SHAPES = {"rect", "circle", "ellipse", "line", "polyline", "polygon", "path"}
_UNSEEN = {
    "defs", "symbol", "clipPath", "mask", "marker", "pattern", "metadata", "title", "desc",
    "style", "linearGradient", "radialGradient", "filter",
}  # fmt: skip
_FORBIDDEN = {"script", "image", "foreignObject", "iframe", "video", "audio"}
_SIZE = re.compile(r"\s*([\d.]+)\s*(?:px)?\s*")


def score(question: Question) -> Verdict:
    """Return 1 where the file is the poster that was asked for, else 0."""
    wanted = json.loads(question.truth)
    try:
        text = (question.file or b"").decode()
        if "<!ENTITY" in text:
            return wrong("it declares entities, which a picture does not need")
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        return wrong(f"the file is no SVG that can be read: {error}")
    if root.tag != f"{_SVG}svg":
        return wrong("the root is no svg element")
    box = [float(part) for part in re.findall(r"-?[\d.]+(?:e-?\d+)?", root.get("viewBox", ""))]
    if len(box) != 4 or box[2] <= 0 or box[3] <= 0:
        return wrong("it has no viewBox")
    seen = list(_seen(root))
    texts = [one for one in seen if one.tag == f"{_SVG}text"]
    words = [(_words(one), _font(one)) for one in texts]
    shapes = [one for one in seen if one.tag.removeprefix(_SVG) in _SHAPES]
    fills = {fill for one in shapes if (fill := _property(one, "fill")) not in (None, "none")}
    title = wanted["texts"][0]
    headline = max((size for said, size in words if title in said), default=0.0)
    others = max((size for said, size in words if title not in said), default=0.0)
    demands = [
        ("upright, its sides as 1 to the root of 2", abs(box[3] / box[2] - 2**0.5) <= 0.02),
        *(
            (f"it says {part}", any(_says(said, part) for said, _ in words))
            for part in wanted["texts"]
        ),
        ("the title is the largest text", headline > others),
        ("the title is at least a twentieth of the height", headline >= box[3] / 20),
        ("every text can be read", all(size >= box[3] / 60 for _, size in words)),
        ("every text begins inside", all(_inside(one, box) for one in texts)),
        (f"{wanted['shapes']} shapes", len(shapes) >= wanted["shapes"]),
        (f"{wanted['colours']} colours", len(fills) >= wanted["colours"]),
        ("no script and no picture of pixels", not _any(root, _FORBIDDEN)),
        ("it needs no other file", not _outside(root)),
    ]
    return demanded(demands, shapes=len(shapes), colours=len(fills))


def _seen(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """Yield the elements that are drawn."""
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if (
            one.tag.removeprefix(_SVG) in _UNSEEN
            or _property(one, "display") == "none"
            or _property(one, "visibility") in ("hidden", "collapse")
            or _none(_property(one, "opacity"))
            or (one.tag == f"{_SVG}text" and _property(one, "fill") in ("none", "transparent"))
        ):
            continue
        yield one
        waiting.extend(reversed(one))


def _property(one: ElementTree.Element, name: str) -> str | None:
    """Return what an element's style says, or its attribute."""
    for part in one.get("style", "").split(";"):
        key, _, value = part.partition(":")
        if key.strip() == name:
            return value.replace("!important", "").strip()
    found = one.get(name)
    return None if found is None else found.strip()


def _none(value: str | None) -> bool:
    try:
        return value is not None and float(value.removesuffix("%")) == 0.0
    except ValueError:
        return False


def _words(one: ElementTree.Element) -> str:
    return " ".join("".join(one.itertext()).split())


def _says(text: str, part: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None


def _font(one: ElementTree.Element) -> float:
    found = _SIZE.fullmatch(_property(one, "font-size") or "")
    return float(found[1]) if found else 0.0


def _inside(one: ElementTree.Element, box: list[float]) -> bool:
    where = [_SIZE.fullmatch(one.get(name, "")) for name in ("x", "y")]
    if not all(where) or one.get("transform") is not None:
        return False
    x, y = (float(match[1]) for match in where if match is not None)
    return box[0] <= x < box[0] + box[2] and box[1] < y <= box[1] + box[3]


def _any(root: ElementTree.Element, names: set[str]) -> bool:
    return any(str(one.tag).rpartition("}")[2] in names for one in root.iter())


def _outside(root: ElementTree.Element) -> bool:
    """Return whether anything but a part of the file itself is referred to."""
    for one in root.iter():
        for name, value in one.attrib.items():
            plain = name.rpartition("}")[2]
            if plain == "href" and not value.startswith("#"):
                return True
            if plain.startswith("on") or re.search(r"url\(\s*['\"]?(?!#)", value[:10_000]):
                return True
        if str(one.tag).endswith("style") and re.search(r"@import|url\(", one.text or ""):
            return True
    return False


GRADER = Grader(
    name="poster",
    score=score,
    control_file=b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>',
)
