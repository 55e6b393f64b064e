"""What a capable model would do with the problems of `bench demo`: programs that make the files.

Each is a Python program without libraries that writes into the directory it is started in.
"""

from __future__ import annotations

TRIP = r"""
plan = {
    "Friday": [("11:00", "Tide Museum", "9.00"), ("12:30", "Clock Tower", "3.50"),
               ("14:00", "Old Lighthouse", "4.50")],
    "Saturday": [("08:00", "Fish Market", "0.00"), ("13:00", "Glass Workshop", "7.50"),
                 ("20:00", "Night Observatory", "12.00")],
    "Sunday": [("09:00", "Chapel of the Sailors", "0.00"), ("11:00", "Harbour Hall", "6.00"),
               ("12:30", "Botanic Terraces", "0.00")],
}
days = "".join(
    f'<section id="day-{n}"><h2>{day}</h2><table>'
    '<tr><th>Time</th><th>Place</th><th>Ticket</th></tr>'
    + "".join(f"<tr><td>{a}</td><td>{b}</td><td>{c}</td></tr>" for a, b, c in rows)
    + "</table></section>\n"
    for n, (day, rows) in enumerate(plan.items(), 1)
)
total = sum(float(row[2]) for rows in plan.values() for row in rows)
open("trip.html", "w").write(
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Lindhaven in three days'
    '</title><style>td { padding: 4px }</style></head><body><h1>Lindhaven</h1>'
    '<svg width="60" height="40"><rect width="60" height="40" fill="#8cf"/></svg>\n'
    f'{days}<p>Tickets: <b id="total">{total:.2f}</b> euros</p></body></html>\n'
)
"""

POSTER = r"""
colours = ["#7a3b12", "#c8641e", "#e8a33d", "#f3d07a", "#5b2a0a"]
shapes = ['<rect width="420" height="594" fill="#fff7e8"/>'] + [
    f'<circle cx="{40 + 26 * n}" cy="{420 + 12 * (n % 4)}" r="{10 + n % 5}" '
    f'fill="{colours[n % 5]}"/>'
    for n in range(14)
]
words = [("Autumn Concert", 100, 48), ("Lindhaven Choir", 170, 30),
         ("17 October 2026, 19:30", 220, 24), ("Harbour Hall", 260, 24), ("Free entry", 540, 18)]
texts = [f'<text x="30" y="{y}" font-size="{size}" fill="#3a1a05">{word}</text>'
         for word, y, size in words]
open("poster.svg", "w").write(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 420 594">'
    + "".join(shapes + texts) + "</svg>"
)
"""

ANIMATION = r'''
import math

WIDTH, HEIGHT, RADIUS, FRAMES = 160, 120, 10, 60
LEVELS = 2  # white and red

def packed(pixels, bits=2):
    out, held, kept = bytearray(), 0, 0
    def put(code, size):
        nonlocal held, kept
        held |= code << kept
        kept += size
        while kept >= 8:
            out.append(held & 255)
            held >>= 8
            kept -= 8
    clear = 1 << bits
    table = {bytes([v]): v for v in range(clear)}
    size, following, prefix = bits + 1, clear + 2, b""
    put(clear, size)
    for value in pixels:
        longer = prefix + bytes([value])
        if longer in table:
            prefix = longer
            continue
        put(table[prefix], size)
        if following < 4096:
            table[longer] = following
            if following == 1 << size and size < 12:
                size += 1
            following += 1
        prefix = bytes([value])
    put(table[prefix], size)
    put(clear + 1, size)
    put(0, 7)
    return bytes(out)

def heights():
    """Three falls, each lower, in parts of the room above the ground."""
    for top, count, whole in ((0.9, 14, False), (0.6, 18, True), (0.35, 16, True), (0.2, 12, True)):
        for step in range(count):
            u = step / count if not whole else 2 * step / count - 1
            yield top * (1 - u * u)

frames = []
for n, part in enumerate(heights()):
    cx = 15 + (WIDTH - 30) * n / (FRAMES - 1)
    cy = HEIGHT - RADIUS - part * (HEIGHT - 2 * RADIUS)
    frames.append(bytes(
        int((x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2 <= RADIUS ** 2)
        for y in range(HEIGHT) for x in range(WIDTH)
    ))

def word(n):
    return n.to_bytes(2, "little")

with open("ball.gif", "wb") as file:
    file.write(b"GIF89a" + word(WIDTH) + word(HEIGHT) + b"\x81\0\0")
    file.write(b"\xff\xff\xff\xff\0\0" + bytes(6))
    file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + word(0) + b"\0")
    for frame in frames:
        file.write(b"\x21\xf9\x04\x00" + word(4) + b"\0\0")
        file.write(b"\x2c" + word(0) * 2 + word(WIDTH) + word(HEIGHT) + b"\0\x02")
        data = packed(frame)
        for at in range(0, len(data), 255):
            part = data[at:at + 255]
            file.write(bytes([len(part)]) + part)
        file.write(b"\0")
    file.write(b";")
'''

TUNE = r"""
import math, struct, wave

RATE, LEVEL = 16000, 12000
NOTES = "C4 E4 G4 C5 A4 F4 D4 G4 E4 F4 D4 B4 C5 A4 G4 C4".split()
PLACES = dict(zip("C4 D4 E4 F4 G4 A4 B4 C5".split(), (0, 2, 4, 5, 7, 9, 11, 12)))

with wave.open("tune.wav", "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(RATE)
    for name in NOTES:
        hertz = 440 * 2 ** ((PLACES[name] - 9) / 12)
        half = RATE // 2
        samples = []
        for at in range(half):
            turn = 2 * math.pi * hertz * at / RATE
            fade = min(1, at / 200, (half - at) / 800)
            samples.append(int(LEVEL * fade * (math.sin(turn) + 0.4 * math.sin(2 * turn)) / 1.4))
        file.writeframes(struct.pack(f"<{half}h", *samples))
"""

PROGRAMS = {"trip": TRIP, "poster": POSTER, "animation": ANIMATION, "tune": TUNE}
FILES = {"trip": "trip.html", "poster": "poster.svg", "animation": "ball.gif", "tune": "tune.wav"}

TEXTS = {
    "chem": "C", "biomed": "B", "physics": "61.6", "math": "14234", "documents": "Kestrel",
    "form": "01| 997; 991; 983; 977\n02| 971; 967; 953; 947\n03| 941; 937; 929; 919\n"
            "04| 911; 907\nEND 14",
}  # fmt: skip

WRONG_PROGRAMS = {
    "trip": TRIP.replace('"13:00", "Glass', '"09:30", "Glass'),
    "poster": POSTER.replace("Autumn Concert", "Autumn Concerto"),
    "animation": ANIMATION.replace("0.35, 16", "0.75, 16"),
    "tune": TUNE.replace('"C4 E4 G4', '"C4 F4 G4'),
}
"""Nearly right: a closed door, another word, a ball that rises higher, another note."""

WRONG_TEXTS = {
    "chem": "B", "biomed": "D", "physics": "61.9", "math": "14235", "documents": "Dorothea",
    "form": TEXTS["form"] + ".",
}  # fmt: skip
