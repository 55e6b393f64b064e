"""The problems of `bench demo`: each truth is worked out again here, in another way."""

from __future__ import annotations

import collections
import json
import math
import re
from fractions import Fraction

import pytest

from sandbox_lite.bench import data, tasks
from sandbox_lite.bench.plan import Selection, keys, planned
from sandbox_lite.bench.task import Row
from sandbox_lite.errors import SpecError, TaskError

DEMO = tasks.find("demo")
ROWS = {row.id: row for row in data.load(DEMO).rows}
FILES = {"trip": "trip.html", "poster": "poster.svg", "animation": "ball.gif", "tune": "tune.wav"}


def test_ten_rows_and_four_of_them_ask_for_files() -> None:
    loaded = data.load(DEMO)
    assert len(loaded.rows) == 10
    assert {row.id: row.artefact for row in loaded.rows if row.artefact} == FILES
    origin = loaded.origin
    assert (origin.name, origin.config, origin.revision) == ("sandbox-lite", "demo", "1")
    assert data.load(DEMO, revision="1").digest == loaded.digest
    with pytest.raises(SpecError, match="holds version 1 of demo, not 0"):
        data.load(DEMO, revision="0")
    for name, file in FILES.items():
        assert f"`{file}`" in ROWS[name].problem_statement


def test_files_are_for_a_computer_alone() -> None:
    plan = planned(["demo"], modes=("sandbox", "plain"), selection=Selection())
    tried = [(key.row, key.mode) for _, _, key in keys(plan, 1)]
    assert len(tried) == 16
    assert {row for row, mode in tried if mode == "plain"} == ROWS.keys() - FILES.keys()
    assert {row for row, mode in tried if mode == "sandbox"} == ROWS.keys()
    with pytest.raises(SpecError, match="ask for files"):
        planned(["demo"], modes=("plain",), selection=Selection(ids=("tune", "trip")))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", ".hidden", "a/b", "", "x" * 90])
def test_an_artefact_is_a_plain_name(name: str) -> None:
    fields = {"id": "1", "problem_statement": "q", "ground_truth": "t", "artefact": name}
    with pytest.raises(TaskError, match="no plain file name"):
        data.row_of(fields, "d", "here")


def test_a_row_that_names_no_grader() -> None:
    row = Row(id="1", problem_statement="q", ground_truth="t", domain="d")
    with pytest.raises(TaskError, match="names no grader"):
        DEMO.grader(row, "default")


def wanted(name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(ROWS[name].ground_truth)
    return found


def digits(number: int) -> int:
    return sum(map(int, str(number)))


def test_the_truth_of_math() -> None:
    found = sum(digits(n) == digits(7 * n) for n in range(1, 100_001))
    assert wanted("math")["value"] == found


def test_the_truth_of_physics() -> None:
    """By small steps of Heun's method, in one dimension after the other."""
    x, y = 0.0, 1.5
    u, v = 30 * math.cos(math.radians(40)), 30 * math.sin(math.radians(40))
    step = 2e-4

    def pull(u: float, v: float) -> tuple[float, float]:
        drag = 0.0012 / 0.150 * math.hypot(u, v)
        return -drag * u, -9.81 - drag * v

    while y > 0:
        a, b = pull(u, v)
        c, d = pull(u + a * step, v + b * step)
        nu, nv = u + (a + c) / 2 * step, v + (b + d) / 2 * step
        x, y, u, v = x + (u + nu) / 2 * step, y + (v + nv) / 2 * step, nu, nv
    assert x == pytest.approx(wanted("physics")["value"], rel=2e-4)


def test_the_truth_of_chem() -> None:
    """The numbers of all substances follow from the balance of each element."""
    formulas = ("K4 Fe1 C6 N6", "K1 Mn1 O4", "H2 S1 O4",
                "K1 H1 S1 O4", "Fe2 S3 O12", "Mn1 S1 O4", "H1 N1 O3", "C1 O2", "H2 O1")  # fmt: skip
    substances = [
        {part.rstrip("0123456789"): int(part.lstrip("CFHKMNOSen")) for part in one.split()}
        for one in formulas
    ]
    left, right = substances[:3], substances[3:]
    elements = sorted({name for one in left + right for name in one})
    rows = [
        [Fraction(one.get(e, 0)) for one in left] + [Fraction(-one.get(e, 0)) for one in right]
        for e in elements
    ]
    solution = null_vector(rows)
    scale = math.lcm(*(value.denominator for value in solution))
    whole = [int(value * scale) for value in solution]
    whole = [value // math.gcd(*whole) for value in whole]
    assert whole[3] == 162
    assert f"{ROWS['chem'].ground_truth}. 162" in ROWS["chem"].problem_statement


def null_vector(rows: list[list[Fraction]]) -> list[Fraction]:
    """Return the one solution with a last member of 1, by elimination."""
    count, at, pivots = len(rows[0]), 0, []
    for column in range(count):
        lead = next((n for n in range(at, len(rows)) if rows[n][column]), None)
        if lead is None:
            continue
        rows[at], rows[lead] = rows[lead], rows[at]
        rows[at] = [value / rows[at][column] for value in rows[at]]
        for n in range(len(rows)):
            if n != at and rows[n][column]:
                factor = rows[n][column]
                rows[n] = [a - factor * b for a, b in zip(rows[n], rows[at], strict=True)]
        pivots.append(column)
        at += 1
    assert pivots == list(range(count - 1))
    return [-rows[n][-1] for n in range(count - 1)] + [Fraction(1)]


def test_the_truth_of_biomed() -> None:
    statement = ROWS["biomed"].problem_statement
    gene = max(re.findall("[ACGT]+", statement), key=len)
    codons = {a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"}
    assert len(codons - {"TAA", "TAG", "TGA"}) == 61
    mutated = gene[:46] + gene[47:]
    parts = re.findall("...", mutated)
    length = next(n for n, codon in enumerate(parts) if codon in ("TAA", "TAG", "TGA"))
    assert f"{ROWS['biomed'].ground_truth}. {length}\n" in statement
    whole = re.findall("...", gene)
    assert next(n for n, c in enumerate(whole) if c in ("TAA", "TAG", "TGA")) == 39


def test_the_truth_of_documents() -> None:
    files = ROWS["documents"].input_files
    books = " ".join((files["book-1.txt"] + files["book-2.txt"]).split())
    corrections = files["corrections.txt"]
    entries = {}
    for number, text in re.findall(r"\[(\d+)\] (.*?)(?= \[\d+\]|$)", books):
        ship = re.search(r"[Tt]he ([A-Z]\w+(?: [A-Z]\w+)?)(?:,| came| \(master)", text)
        load = re.search(r"(\d+) tons of (\w+)|discharged (\w+), (\d+) tons|with (\w+): (\d+) tons",
                         text)  # fmt: skip
        assert ship is not None, text
        assert load is not None, text
        tons = int(load[1] or load[4] or load[6])
        entries[int(number)] = [ship[1], load[2] or load[3] or load[5], tons]
    assert sorted(entries) == list(range(1, 373))
    before = salt(entries)
    for number in re.findall(r"Entry (\d+) is void", corrections):
        del entries[int(number)]
    for number, cargo in re.findall(r"Entry (\d+) names (\w+) by mistake", corrections):
        assert entries[int(number)][1] == cargo
        entries[int(number)][1] = "salt"
    for number, was, now in re.findall(r"Entry (\d+) gives (\d+).* read (\d+) tons", corrections):
        assert entries[int(number)][2] == int(was)
        entries[int(number)][2] = int(now)
    assert salt(entries).most_common(1)[0][0] == ROWS["documents"].ground_truth
    # who does not read the corrections finds another
    assert before.most_common(1)[0][0] == "Dorothea"


def salt(entries: dict[int, list[object]]) -> collections.Counter[object]:
    found: collections.Counter[object] = collections.Counter()
    for ship, cargo, tons in entries.values():
        if cargo == "salt":
            found[ship] += int(str(tons))
    return found


def test_the_truth_of_form() -> None:
    primes = [n for n in range(1000, 900, -1) if all(n % d for d in range(2, 32))]
    lines = [primes[at : at + 4] for at in range(0, len(primes), 4)]
    text = "".join(f"{n:02}| {'; '.join(map(str, line))}\n" for n, line in enumerate(lines, 1))
    assert ROWS["form"].ground_truth == f"{text}END {len(primes)}\n"
