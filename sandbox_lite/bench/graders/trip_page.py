"""A page with the plan of a journey: its form, and whether the plan can be followed."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from sandbox_lite.bench.graders.grader import Grader, Question, Verdict, demanded, wrong

_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source",
         "track", "wbr"}  # fmt: skip
_ALWAYS_WRONG = {"script", "iframe", "object", "embed", "frame"}
_CENT = 0.005


@dataclass(slots=True)
class Section:
    """One day: rows of cells."""

    rows: list[list[str]] = field(default_factory=list)


class Page(HTMLParser):
    """What is asked of: title, headings, rows by section, the total, pictures, references."""

    def __init__(self) -> None:
        super().__init__()
        self.doctype = False
        self.language = ""
        self.texts: dict[str, str] = {"title": "", "h1": "", "#total": ""}
        self.days: dict[str, Section] = {}
        self.pictures = 0
        self.outside: list[str] = []
        self.forbidden: set[str] = set()
        self._open: list[tuple[str, str]] = []
        """Name and id of each element that is open."""

    def handle_decl(self, decl: str) -> None:
        """See HTMLParser."""
        self.doctype |= decl.lower().startswith("doctype html")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        named = {name: value or "" for name, value in attrs}
        if tag == "html":
            self.language = named.get("lang", "")
        if tag in _ALWAYS_WRONG:
            self.forbidden.add(tag)
        for name, value in named.items():
            if name.startswith("on"):
                self.forbidden.add(name)
            if "url(" in value and "url(#" not in value and "url(data:" not in value:
                self.outside.append(value)
        source = named.get("src") or (named.get("href", "") if tag == "link" else "")
        if source and not source.startswith("data:"):
            self.outside.append(source)
        if tag == "svg" or (tag == "img" and source.startswith("data:image/")):
            self.pictures += 1
        day = self._day()
        if day is None and re.fullmatch(r"day-\d", named.get("id", "")):
            self.days.setdefault(named["id"], Section())
        elif day is not None and tag == "tr":
            day.rows.append([])
        elif day is not None and tag in ("td", "th") and day.rows:
            day.rows[-1].append("")
        if tag not in _VOID:
            self._open.append((tag, named.get("id", "")))

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        names = [name for name, _ in self._open]
        if tag in names:
            del self._open[len(names) - 1 - names[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        names = {name for name, _ in self._open}
        if "style" in names:
            if re.search(r"@import|url\(\s*['\"]?(?!data:|#)", data):
                self.outside.append("a style")
            return
        for name in names & self.texts.keys():
            self.texts[name] += data
        if any(one == "total" for _, one in self._open):
            self.texts["#total"] += data
        day = self._day()
        if day is not None and names & {"td", "th"} and day.rows and day.rows[-1]:
            day.rows[-1][-1] += data

    def _day(self) -> Section | None:
        ids = [one for _, one in self._open if one in self.days]
        return self.days[ids[-1]] if ids else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One row of a plan; times are minutes of the day."""

    day: int
    begins: int
    place: str
    ticket: float


def score(question: Question) -> Verdict:
    """Return 1 where the page is as asked for and its plan can be followed, else 0."""
    wanted = json.loads(question.truth)
    try:
        text = (question.file or b"").decode()
    except ValueError:
        return wrong("the page is no UTF-8")
    page = Page()
    page.feed(text)
    page.close()
    visits, strange = _visits(page)
    total = re.findall(r"\d+\.\d\d", page.texts["#total"])
    paid = sum(visit.ticket for visit in visits)
    days = [f"day-{number}" for number in range(1, len(wanted["days"]) + 1)]
    demands = [
        ("a doctype and a language", page.doctype and bool(page.language)),
        ("a title and one h1 with the name of the town",
         all(wanted["town"] in page.texts[name] for name in ("title", "h1"))),
        ("one element for each day", sorted(page.days) == days),
        ("rows of time, place and ticket", bool(visits) and not strange),
        ("a picture", page.pictures >= 1),
        ("no script and no frame", not page.forbidden),
        ("it needs no other file", not page.outside),
        *_can_be_followed(visits, wanted),
        ("the total is that of the tickets",
         len(total) == 1 and abs(float(total[0]) - paid) < _CENT),
        ("the budget", paid <= wanted["budget"] + _CENT),
    ]  # fmt: skip
    return demanded(demands, visits=len(visits), strange=strange[:3])


def _visits(page: Page) -> tuple[list[Visit], list[str]]:
    """Return the rows of the plan, and those that are neither that nor a heading."""
    visits, strange = [], []
    for name, section in page.days.items():
        for cells in section.rows:
            row = [" ".join(cell.split()) for cell in cells]
            when = re.fullmatch(r"(\d\d):(\d\d)", row[0]) if len(row) == 3 else None
            price = re.fullmatch(r"\d+\.\d\d", row[2]) if len(row) == 3 else None
            if when is not None and price is not None:
                minutes = int(when[1]) * 60 + int(when[2])
                visits.append(Visit(day=int(name[-1]), begins=minutes, place=row[1],
                                    ticket=float(row[2])))  # fmt: skip
            elif any(re.search(r"\d", cell) for cell in row):
                strange.append(" | ".join(row)[:100])
    return visits, strange


def _can_be_followed(visits: list[Visit], wanted: dict[str, Any]) -> list[tuple[str, bool]]:
    places, stay, gap = wanted["places"], wanted["visit_minutes"], wanted["way_minutes"]
    known = [visit for visit in visits if visit.place in places]
    seen = [visit.place for visit in visits]
    ordered, there, opened = True, True, True
    for number, day in enumerate(wanted["days"], 1):
        of_day = [visit for visit in known if visit.day == number]
        for before, after in itertools.pairwise(of_day):
            ordered &= after.begins >= before.begins + stay + gap
        there &= all(day["from"] <= v.begins and v.begins + stay <= day["to"] for v in of_day)
        for visit in of_day:
            place = places[visit.place]
            opened &= place["closed_on"] != day["weekday"]
            opened &= place["opens"] <= visit.begins and visit.begins + stay <= place["closes"]
    least = wanted["visits_a_day"]
    return [
        ("only places of the list", len(known) == len(visits)),
        ("no place twice", len(set(seen)) == len(seen)),
        ("all that must be seen", set(wanted["must"]) <= set(seen)),
        (f"{least} places or more a day",
         all(sum(v.day == n for v in visits) >= least for n in range(1, len(wanted["days"]) + 1))),
        ("the visits of a day are in order, with time for the way", ordered),
        ("they are between arrival and departure", there),
        ("every place is open", opened),
        ("the prices of the list",
         all(abs(v.ticket - places[v.place]["ticket"]) < _CENT for v in known)),
    ]  # fmt: skip


GRADER = Grader(name="trip-page", score=score, control_file=b"<!DOCTYPE html><p>x")
