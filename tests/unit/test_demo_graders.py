"""The graders of `bench demo`: right files and texts, and many ways to be wrong."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import wave
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from sandbox_lite.bench import data, gif, graders, tasks
from sandbox_lite.bench.graders.grader import Question
from sandbox_lite.bench.grading import Grading
from sandbox_lite.bench.task import NoAnswer, Score
from sandbox_lite.errors import TaskError
from tests.demo_answers import (
    ANIMATION,
    FILES,
    POSTER,
    PROGRAMS,
    TEXTS,
    TRIP,
    TUNE,
    WRONG_PROGRAMS,
    WRONG_TEXTS,
)

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_lite.bench.graders.grader import Verdict

DEMO = tasks.find("demo")
ROWS = {row.id: row for row in data.load(DEMO).rows}


def made(name: str, program: str, directory: Path) -> bytes:
    subprocess.run([sys.executable, "-I", "-c", program], cwd=directory, check=True)
    return (directory / FILES[name]).read_bytes()


def looked_at(name: str, file: bytes) -> Verdict:
    row = ROWS[name]
    grader = graders.find(DEMO.grader(row, "default"))
    assert grader.score is not None
    return grader.score(Question(answer="", truth=row.ground_truth, file=file))


def read(name: str, answer: str) -> Verdict:
    row = ROWS[name]
    grader = graders.find(DEMO.grader(row, "default"))
    assert grader.score is not None
    return grader.score(Question(answer=answer, truth=row.ground_truth))


@pytest.mark.parametrize("name", FILES)
def test_what_was_asked_for_is_right(name: str, tmp_path: Path) -> None:
    verdict = looked_at(name, made(name, PROGRAMS[name], tmp_path))
    assert (verdict.value, verdict.text) == (1.0, "correct"), verdict
    wrong = looked_at(name, made(name, WRONG_PROGRAMS[name], tmp_path))
    assert wrong.value == 0.0


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"GIF89a", b"RIFF\xff\xff\xff\xffWAVE", b"<svg", "ж".encode("cp1251")],
)
def test_what_is_no_such_file_is_wrong(name: str, content: bytes) -> None:
    verdict = looked_at(name, content)
    assert verdict.value == 0.0
    assert verdict.text


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_is_wrong(name: str, tmp_path: Path) -> None:
    whole = made(name, PROGRAMS[name], tmp_path)
    for share in (0.3, 0.6, 0.9):
        assert looked_at(name, whole[: int(len(whole) * share)]).value == 0.0


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("RADIUS, FRAMES = 160, 120, 10, 60", "RADIUS, FRAMES = 160, 120, 5, 60", "diameter"),
        ("WIDTH, HEIGHT, RADIUS, FRAMES = 160, 120", "WIDTH, HEIGHT, RADIUS, FRAMES = 120, 160",
         "160 x 120"),
        ("for frame in frames:", "for frame in frames[:20]:", "30 to 90 frames"),
        ("for frame in frames:", "for frame in frames[:1] * 60:", "somewhere else"),
        ("for frame in frames:", "for frame in frames[::-1]:", "left third"),
        ("for frame in frames:", "for frame in frames[:20] + [bytes(160 * 120)] + frames[20:]:",
         "one round red ball"),
        ("word(4)", "word(50)", "time of each frame"),
        ("word(4)", "word(0)", "time of each frame"),
        ("NETSCAPE2.0\\x03\\x01\" + word(0)", "NETSCAPE2.0\\x03\\x01\" + word(3)", "for ever"),
        (r"\xff\xff\xff\xff\0\0", r"\xff\xff\xff\x00\0\xff", "one round red ball"),
        (r"\xff\xff\xff\xff\0\0", r"\x20\xff\xff\xff\0\0", "one round red ball"),
        ("<= RADIUS ** 2", "<= RADIUS ** 2 and x > cx", "one round red ball"),
        ("(x + 0.5 - cx) ** 2 +", "abs(x + 0.5 - cx) ** 9 +", "one round red ball"),
        ("part * (HEIGHT - 2 * RADIUS)", "max(part, 0.2) * (HEIGHT - 2 * RADIUS)", "lower edge"),
        ("((0.9, 14, False)", "((0.3, 14, False)", "upper half"),
        ("(0.35, 16, True), (0.2, 12, True)", "(0.02, 28, True)", "3 times"),
    ],
)  # fmt: skip
def test_animations_that_are_not_what_was_asked_for(
    old: str, new: str, why: str, tmp_path: Path
) -> None:
    assert old in ANIMATION
    verdict = looked_at("animation", made("animation", ANIMATION.replace(old, new), tmp_path))
    assert verdict.value == 0.0
    assert any(why in failed for failed in verdict.details["failed"]), verdict


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("LEVEL = 16000, 12000", "LEVEL = 16000, 1500", "loudness"),
        ("/ 1.4", ") if 0 else max(-32768, min(32767, int(9 * LEVEL * math.sin(turn)))", "clipped"),
        ("G4 C4\"", "G4 C5\"", "ends on C4"),
        ("E4 F4 D4 B4", "E4 F4 E4 E4", None),
        ("C4 E4 G4 C5 A4", "C4 E4 G4 B4 A4", "begins with"),
        ("(0, 2, 4, 5, 7, 9, 11, 12)", "(0, 2, 4, 6, 7, 9, 11, 12)", "naturals"),
        ("A4 F4 D4 G4 E4 F4 D4 B4 C5 A4 G4 C4", "C4 E4 G4 C5 C4 E4 G4 C5 C4 E4 G4 C4",
         "6 different"),
        ("fade = ", "fade = 0 if name in ('A4', 'F4') else ", "silent"),
        ("hertz = 440", "hertz = 432 * 0.93", "begins with"),
        (".split()\nPLACES", ".split()[:12]\nPLACES", "lasts"),
        ("(math.sin(turn) +", "(0 * math.sin(turn) + __import__('random').uniform(-1, 1) +", None),
    ],
)  # fmt: skip
def test_tunes_that_are_not_what_was_asked_for(
    old: str, new: str, why: str | None, tmp_path: Path
) -> None:
    assert old in TUNE
    verdict = looked_at("tune", made("tune", TUNE.replace(old, new), tmp_path))
    if new == "E4 F4 E4 E4":  # another melody, as good
        assert verdict.value == 1.0
        return
    assert verdict.value == 0.0
    if why is not None:
        assert why in json.dumps(verdict.details) + verdict.text, verdict


def test_silence_and_noise_are_no_tune() -> None:
    rng = random.Random(1)
    for samples in (bytes(160_000 * 2), rng.randbytes(160_000 * 2)):
        sink = io.BytesIO()
        with wave.open(sink, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(samples)
        verdict = looked_at("tune", sink.getvalue())
        assert verdict.value == 0.0
        assert verdict.details["heard"].count("-") >= 18, verdict.details["heard"]


def test_a_stereo_tune_of_another_rate_is_right(tmp_path: Path) -> None:
    program = TUNE.replace("setnchannels(1)", "setnchannels(2)").replace(
        'f"<{half}h", *samples', 'f"<{2 * half}h", *[s for s in samples for _ in (0, 1)]'
    ).replace("RATE, LEVEL = 16000", "RATE, LEVEL = 44100")  # fmt: skip
    verdict = looked_at("tune", made("tune", program, tmp_path))
    assert verdict.value == 1.0, verdict


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("0 0 420 594", "0 0 594 420", "upright"),
        ('viewBox="0 0 420 594"', 'width="420"', "viewBox"),
        ('"Free entry", 540, 18', '"Free entry", 540, 6', "can be read"),
        ('"Free entry", 540', '"Free entry", 640', "begins inside"),
        ('"Lindhaven Choir", 170, 30', '"Lindhaven Choir", 170, 50', "largest text"),
        ('"Autumn Concert", 100, 48', '"Autumn Concert", 100, 28', "twentieth"),
        ("range(14)", "range(9)", "12 shapes"),
        ("n % 5]", "n % 2]", "4 colours"),
        ("</svg>", "<script/></svg>", "no script"),
        ("</svg>", "<image href='data:,'/></svg>", "no script and no picture"),
        ("</svg>", "<use href='other.svg#a'/></svg>", "no other file"),
        ("</svg>", "<style>@import 'x.css';</style></svg>", "no other file"),
        ("<text x=", '<text display="none" x=', "it says"),
        ("<text x=", '<text fill-opacity="1" style="visibility: hidden" x=', "it says"),
        ('fill="#3a1a05">', 'fill="none">', "it says"),
        ("<svg ", '<!DOCTYPE svg [<!ENTITY a "b">]><svg ', "declares entities"),
        ("http://www.w3.org/2000/svg", "http://example.org/svg", "no svg"),
        ('"".join(shapes + texts)', '"<defs>" + "".join(shapes + texts) + "</defs>"', "it says"),
        ("17 October", "18 October", "it says 17 October"),
    ],
)
def test_posters_that_are_not_what_was_asked_for(
    old: str, new: str, why: str, tmp_path: Path
) -> None:
    assert old in POSTER
    verdict = looked_at("poster", made("poster", POSTER.replace(old, new), tmp_path))
    assert verdict.value == 0.0
    assert why in json.dumps(verdict.details) + verdict.text, verdict


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("<!DOCTYPE html>", "", "doctype"),
        (' lang="en"', "", "language"),
        ("<h1>Lindhaven</h1>", "<h1>Our trip</h1>", "title and one h1"),
        ('id="day-{n}"', 'class="day-{n}"', "one element for each day"),
        ("<svg", "<p", "a picture"),
        ("<svg", "<script></script><svg", "no script"),
        ("<svg", '<svg onload="x()"></svg><svg', "no script"),
        ("<svg", '<img src="https://example.org/a.png"><svg', "no other file"),
        ("td { padding", '@import "x.css"; td { padding', "no other file"),
        ("{total:.2f}", "{total + 1:.2f}", "total is that of the tickets"),
        ('"Harbour Hall", "6.00"', '"Harbour Hall", "5.00"', "prices"),
        ('"Harbour Hall", "6.00"', '"Puppet Theatre", "14.00"', "budget"),
        ('"Clock Tower", "3.50"', '"Tide Museum", "9.00"', "no place twice"),
        ('"Clock Tower", "3.50"', '"City Zoo", "3.50"', "only places of the list"),
        (', ("20:00", "Night Observatory", "12.00")', "", None),
        ('"20:00", "Night', '"19:30", "Night', "every place is open"),
        ('"11:00", "Tide', '"10:30", "Tide', "arrival and departure"),
        ('"12:30", "Botanic', '"15:30", "Botanic', "arrival and departure"),
        ('"12:30", "Clock', '"12:00", "Clock', "in order"),
        ('"12:30", "Clock', '"half past 12", "Clock', "rows of time"),
        ("<td>{c}</td>", "<td>{c} EUR</td>", "rows of time"),
    ],
)
def test_pages_that_are_not_what_was_asked_for(
    old: str, new: str, why: str | None, tmp_path: Path
) -> None:
    if why is None:
        old, new = ',\n                 ("20:00", "Night Observatory", "12.00")', ""
        why = "all that must be seen"
    assert old in TRIP
    verdict = looked_at("trip", made("trip", TRIP.replace(old, new), tmp_path))
    assert verdict.value == 0.0
    assert why in json.dumps(verdict.details), verdict


@pytest.mark.parametrize("name", TEXTS)
def test_texts_that_are_right(name: str) -> None:
    for text in (TEXTS[name], f"{TEXTS[name]}\n", f"I think so.\n\nANSWER:\n{TEXTS[name]}\n"):
        assert read(name, text).value == 1.0, text
    assert read(name, WRONG_TEXTS[name]).value == 0.0
    assert read(name, f"{TEXTS[name]}\nANSWER:\n{WRONG_TEXTS[name]}").value == 0.0


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("physics", "61.6 m", 1), ("physics", "61.6\\,\\text{m}", 1), ("physics", "x = 61.6 m", 1),
        ("physics", "$\\boxed{61.6}$", 1), ("physics", "6.16e1", 1), ("physics", "61.6 metres.", 1),
        ("physics", "6.16 \u00d7 10^1 m", 1), ("physics", "6.16\\times 10^{1}", 1),
        ("physics", "61.6 km", 0), ("physics", "-61.6", 0), ("physics", "\u221261.6", 0),
        ("physics", "61.6 or 62", 0), ("physics", "", 0), ("physics", "about 61.6", 0),
        ("physics", "\\boxed{61.6", 0), ("physics", "616", 0), ("physics", "61.6 61.6", 0),
        ("math", "14,234", 1), ("math", "14234.0", 1), ("math", "**14234**", 1),
        ("math", "1,4234", 0), ("math", "14234 apples", 0), ("math", "-14234", 0),
        ("math", "14234, 14235", 0), ("math", "1e400", 0), ("math", "14234.5", 0),
        ("documents", "the Kestrel.", 1), ("documents", "KESTREL", 1),
        ("documents", "\\boxed{\\text{Kestrel}}", 1), ("documents", '"Kestrel"', 1),
        ("documents", "Kestrel or Dorothea", 0), ("documents", "Kestrels", 0), ("documents", "", 0),
        ("documents", "not the Kestrel", 0),
        ("form", TEXTS["form"].replace("\n", "\r\n"), 1), ("form", f"\n\n{TEXTS['form']}\n\n", 1),
        ("form", f"```\n{TEXTS['form']}\n```", 0), ("form", TEXTS["form"].replace("; ", ";"), 0),
        ("form", TEXTS["form"].replace("\n02", " \n02"), 0), ("form", f" {TEXTS['form']}", 0),
        ("form", TEXTS["form"].replace("END 14", ""), 0), ("form", f"Here:\n{TEXTS['form']}", 0),
        ("form", "", 0),
    ],
)  # fmt: skip
def test_texts_and_their_traps(name: str, text: str, value: int) -> None:
    assert read(name, text).value == value


def frames(images: list[Image.Image], **options: object) -> bytes:
    sink = io.BytesIO()
    first, *rest = images
    first.save(sink, "GIF", save_all=True, append_images=rest, **options)
    return sink.getvalue()


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
@pytest.mark.parametrize("optimize", [False, True])
def test_gif_frames_are_what_was_drawn(disposal: int, optimize: bool) -> None:
    """Noise fills the table of codes; a few boxes make frames that are parts of the picture."""
    rng = random.Random(disposal)
    images = []
    for _ in range(5):
        image = Image.new("RGB", (90, 70), "white")
        for _ in range(300):
            spot = (rng.randrange(85), rng.randrange(65))
            image.paste(
                tuple(rng.randrange(256) for _ in range(3)), (*spot, spot[0] + 4, spot[1] + 4)
            )
        images.append(image.quantize(64))
    content = frames(images, duration=50, loop=0, disposal=disposal, optimize=optimize)
    found = gif.read(content)
    with Image.open(io.BytesIO(content)) as other:
        assert (found.width, found.height, found.plays) == (*other.size, 0)
    for image, frame in zip(images, found.frames, strict=True):
        expected = image.convert("RGB").tobytes()
        assert (frame.red, frame.green, frame.blue) == tuple(expected[n::3] for n in range(3))
        assert frame.seconds == 0.05


def test_an_interlaced_gif_with_transparency() -> None:
    image = Image.effect_noise((64, 50), 90).quantize(16)
    sink = io.BytesIO()
    image.save(sink, "GIF", interlace=1)
    with Image.open(io.BytesIO(sink.getvalue())) as other:
        expected = other.convert("RGB").tobytes()
    assert sink.getvalue()[sink.getvalue().index(b"\x2c") + 9] & 0x40
    (frame,) = gif.read(sink.getvalue()).frames
    assert frame.red == expected[0::3]


def test_a_gif_that_would_take_for_ever_is_not_looked_at(tmp_path: Path) -> None:
    content = made("animation", ANIMATION, tmp_path)
    assert gif.read(content).width == 160
    for old, new in ((b"\xa0\x00\x78\x00", b"\xff\xff\xff\xff"), (b"\x02", b"\x0c")):
        broken = content.replace(old, new, 1)
        assert broken != content
        with pytest.raises(gif.NotGifError):
            gif.read(broken)
    head, _, tail = content.partition(b"\x21\xf9")
    with pytest.raises(gif.NotGifError, match="more than 200 frames"):
        gif.read(head + (b"\x21\xf9" + tail.removesuffix(b";")) * 4 + b";")


@pytest.mark.parametrize("name", FILES)
def test_in_their_bounded_process(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    made(name, PROGRAMS[name], tmp_path)
    none = NoAnswer(reason="missing", text="there is no answer.txt")
    with Grading(timeout=30) as grading:
        right = grading.grade(DEMO, row, none, file=tmp_path / FILES[name])
        assert isinstance(right, Score)
        assert (right.value, right.grader) == (1.0, DEMO.grader(row, "default"))
        at_once = grading.grade(DEMO, row, none, file=(tmp_path / FILES[name]).read_bytes())
        assert at_once == right
        lacking = grading.grade(DEMO, row, none, file=none)
        assert isinstance(lacking, Score)
        assert (lacking.value, lacking.verdict) == (0.0, "no file: missing")
        unkept = grading.grade(DEMO, row, none)
        assert isinstance(unkept, Score)
        assert unkept.value == 0.0
        # a stored file that is gone is no fault of the model
        with pytest.raises(TaskError, match="cannot be read"):
            grading.grade(DEMO, row, none, file=tmp_path / "gone")
        # what a control looks at must be gradable
        assert grading.check(DEMO, [row]) == ()
        grading._bounded.try_control(right.grader, grading._question(row, ""))
