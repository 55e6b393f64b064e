"""A tune in a WAV file: every half second is listened to."""

from __future__ import annotations

import io
import itertools
import json
import math
import wave
from array import array
from typing import TYPE_CHECKING

from sandbox_lite.bench.graders.grader import Grader, Question, Verdict, demanded, wrong

if TYPE_CHECKING:
    from collections.abc import Sequence

NOTES = {
    name: 261.6256 * 2 ** (place / 12)
    for place, name in enumerate(
        ("C4", "C#4", "D4", "D#4", "E4", "F4", "F#4", "G4", "G#4", "A4", "A#4", "B4", "C5")
    )
}
"""Hertz, equal temperament with A4 = 440."""

_HARMONICS = ((1, 1.0), (2, 0.6), (3, 0.3))
"""Weights such that a pure tone is heard as itself, not as the one an octave below."""
_LEAST_RATE = 8000
_CLEAR = 0.2
"""Least share of a slot's energy at its note and two harmonics; noise has a tenth of it."""
_FULL = 32767


def score(question: Question) -> Verdict:
    """Return 1 where the file holds what was asked for, else 0."""
    wanted = json.loads(question.truth)
    try:
        samples, rate, channels, width = _read(question.file or b"")
    except (wave.Error, EOFError, ValueError) as error:
        return wrong(f"the file is no WAV that can be read: {error}")
    if width != 2 or channels not in (1, 2) or not _LEAST_RATE <= rate <= 48000:
        return wrong("it is no 16-bit PCM, mono or stereo, of 8000 to 48000 Hz")
    if channels == 2:
        both = zip(samples[::2], samples[1::2], strict=True)
        samples = array("h", ((left + right) // 2 for left, right in both))
    seconds = len(samples) / rate
    shortest, longest = wanted["seconds"]
    if not shortest <= seconds <= longest:
        return wrong(f"it lasts {seconds:.2f} s, not {shortest} to {longest} s")
    slot = wanted["slot_seconds"]
    heard = [
        note(samples[round(at * slot * rate) : round((at + 1) * slot * rate)], rate)
        for at in range(int(seconds / slot + 0.01))
    ]
    peak = max(max(samples), -min(samples)) / _FULL
    clipped = sum(abs(sample) >= _FULL - 1 for sample in samples) / len(samples)
    begins, ends = wanted["begins"], wanted["ends"]
    sounding = [name for name in heard if name is not None]
    silent = any(a is None and b is None for a, b in itertools.pairwise(heard))
    demands = [
        ("its loudness: a peak of a tenth to all of the scale", 0.1 <= peak <= 1.0),
        ("it is not clipped", clipped < 0.01),
        (f"it begins with {' '.join(begins)}", heard[: len(begins)] == begins),
        (f"it ends on {ends}", sounding[-1:] == [ends]),
        (f"{wanted['different']} different notes", len(set(sounding)) >= wanted["different"]),
        ("naturals alone", not any("#" in name for name in sounding)),
        ("it is never silent for a second", not silent),
    ]
    shown = " ".join(name or "-" for name in heard)
    return demanded(demands, heard=shown, seconds=round(seconds, 3))


def _read(data: bytes) -> tuple[array[int], int, int, int]:
    with wave.open(io.BytesIO(data)) as file:
        frames = file.readframes(file.getnframes())
        rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
        if len(frames) != file.getnframes() * channels * width:
            raise ValueError("it is cut off")
    samples = array("h")
    if width == 2:
        samples.frombytes(frames)
    return samples, rate, channels, width


def note(samples: Sequence[int], rate: int) -> str | None:
    """Return which note of the octave from C4 sounds, or None where none is clear.

    The middle half is listened to, so that neighbours and fading edges do not matter.
    """
    step = max(1, rate // _LEAST_RATE)
    middle = samples[len(samples) // 4 : len(samples) * 3 // 4]
    mean = sum(middle) / max(1, len(middle))
    part = [
        sum(middle[at : at + step]) / step - mean for at in range(0, len(middle) - step + 1, step)
    ]
    energy = sum(value * value for value in part)
    if not part or math.sqrt(energy / len(part)) < _FULL / 200:
        return None
    size = len(part)
    window = [0.5 - 0.5 * math.cos(2 * math.pi * at / size) for at in range(size)]
    shaped = [value * weight for value, weight in zip(part, window, strict=True)]
    scale = sum(value * value for value in shaped) * size / 3
    found = {}
    for name, hertz in NOTES.items():
        powers = [(_power(shaped, hertz * times, rate / step), weight)
                  for times, weight in _HARMONICS]  # fmt: skip
        found[name] = (sum(p * w for p, w in powers), sum(p for p, _ in powers))
    best = max(found, key=lambda name: found[name][0])
    return best if found[best][1] / scale >= _CLEAR else None


def _power(samples: Sequence[float], hertz: float, rate: float) -> float:
    """Return the energy at a frequency: Goertzel's algorithm."""
    turn = 2 * math.cos(2 * math.pi * hertz / rate)
    one = two = 0.0
    for sample in samples:
        one, two = sample + turn * one - two, one
    return one * one + two * two - turn * one * two


def _silence() -> bytes:
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_LEAST_RATE)
        file.writeframes(bytes(200))
    return made.getvalue()


GRADER = Grader(name="tune", score=score, control_file=_silence())
