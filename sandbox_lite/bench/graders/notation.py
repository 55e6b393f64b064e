"""Plain text and LaTeX brought to one notation: boxes, signs, powers, lead-ins, units."""

from __future__ import annotations

import re
import unicodedata

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_ASCII = dict.fromkeys(map(ord, "\u2212\u2010\u2011\u2012\u2013\u2014\ufe63\uff0d"), "-") | {
    ord("\u3002"): ".", ord("\u2044"): "/",
}  # fmt: skip
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_SIGNS = str.maketrans({
    "\u00d7": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "°": r"^{\circ}", "、": ",", "√": r"\sqrt ",
})  # fmt: skip

LEAD_IN = re.compile(
    r"(?:final\s+answer|answer|result|ответ|результат|最终答案|答案|结果)\**"
    r"\s*(?:\b(?:is|are|equals)\b|равен|равно|是|为|[:：=])+\s*",
    re.IGNORECASE,
)
"""What stands before an answer, in the languages that models answer in."""

_FOREIGN_UNITS = {
    "км": "km", "см": "cm", "мм": "mm", "м": "m", "кг": "kg", "мг": "mg", "г": "g", "мин": "min",
    "ч": "h", "с": "s", "Н": "N", "кДж": "kJ", "Дж": "J", "кВт": "kW", "Вт": "W", "Па": "Pa",
    "В": "V", "моль": "mol", "л": "L", "千米": "km", "公里": "km", "厘米": "cm", "毫米": "mm",
    "米": "m", "千克": "kg", "公斤": "kg", "毫克": "mg", "克": "g", "分钟": "min", "小时": "h",
    "秒": "s", "牛": "N", "焦耳": "J", "瓦": "W", "摩尔": "mol", "升": "L",
}  # fmt: skip
_FOREIGN = re.compile(
    rf"(?<=[\d)}}/])(\s*)({'|'.join(sorted(_FOREIGN_UNITS, key=len, reverse=True))})"
    r"(?![а-яёА-ЯЁ\u4e00-\u9fff])"
)

_REASONS = re.compile(r"[,;]?\s+(?:since|because|as|where|which|so)\b|[.;!。]\s+(?=\D)")

_UNIT_NAMES = (
    "mm|cm|dm|km|nm|pm|fm|m|mg|kg|g|ms|min|hours?|days?|years?|seconds?|minutes?|hr|h|s|"
    "kHz|MHz|GHz|Hz|keV|MeV|GeV|TeV|eV|mN|kN|MN|N|kJ|MJ|J|mW|kW|MW|W|kPa|MPa|GPa|hPa|Pa|atm|bar|"
    "mV|kV|V|mA|A|mol|mmol|L|mL|K|mT|T|C|F|Wb|H|Ohm|ohm|rad|sr|cd|lm|lx|Bq|Gy|Sv|"
    "degrees?|met(?:er|re)s?|Ω|Å|dollars?|cents?|euros?|units?"
)
_PART = rf"(?:{_UNIT_NAMES})(?:\s*\^?\s*\{{?\s*-?\d+\s*\}}?)?"
_PLAIN_UNIT = rf"{_PART}(?:\s*(?:/|\*|\\cdot|\\times|\\,|\s)\s*{_PART})*"
_TEXT = r"(?:\\(?:text|mathrm|rm|textrm|operatorname|mathit|unit|si)\s*\{[^{}]*\}"
_TEXT_UNIT = rf"{_TEXT}(?:\s*\^\s*(?:\{{[^{{}}]*\}}|-?\d))?(?:\s|/|\\cdot|\\,|\\;|\*)*)+"
_SPACE = r"(?:\\[,;:! ]|~|\s)*"
_WITH_UNIT = re.compile(
    rf"(?P<value>.*[\d)}}\]]|.*\\pi)(?P<space>{_SPACE})"
    rf"(?P<unit>{_TEXT_UNIT}|{_PLAIN_UNIT})\s*\.?\s*",
    re.DOTALL,
)
_UNIT_PART = re.compile(r"(/?)\s*([A-Za-zΩÅ]+)\s*(?:\^?\s*\{?\s*(-?\d+)\s*\}?)?")


def boxed(text: str) -> tuple[str | None, bool]:
    """Return the content of the last box that is not empty, and whether one is never closed.

    A backspace character before `oxed` is a box whose `\\b` a shell has swallowed.
    """
    text = text.replace("\boxed", "\\boxed")
    found = None
    for match in _BOX.finditer(text):
        content = _braced(text, match.end())
        if content is None:
            return None, True
        found = content if content.strip() else found
    return (None if found is None else found.strip()), False


def _braced(text: str, start: int) -> str | None:
    depth = 1
    for place in range(start, len(text)):
        if text[place] in "{}" and text[place - 1] != "\\":
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return text[start:place]
    return None


def without_box(content: str) -> str:
    """Return the innermost content of boxes in boxes."""
    while (match := _BOX.match(content)) and content.endswith("}"):
        content = content[match.end() : -1].strip()
    return content


def behind_lead_in(text: str) -> str:
    """Return what stands behind the last lead-in such as `Answer:`, without reasons; else ""."""
    lead_ins = list(LEAD_IN.finditer(text))
    rest = text[lead_ins[-1].end() :].strip() if lead_ins else ""
    line = rest.splitlines()[0].strip() if rest else ""
    return _REASONS.split(line, maxsplit=1)[0].strip()


def plain_signs(text: str) -> str:
    """Return text with one kind of minus, and full-width characters made narrow."""
    # in one and a half as one sign the digit before it is no part of the numerator
    text = re.sub(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])", " ", _superscripts(text))
    text = unicodedata.normalize("NFKC", text).translate(_ASCII).strip()
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def _superscripts(text: str) -> str:
    return re.sub(
        "[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+", lambda match: "^{" + match[0].translate(_SUPERSCRIPT) + "}", text
    )


def latex(text: str) -> str:
    """Return a formula in the notation of LaTeX, whatever signs it was written with."""
    text = plain_signs(text.replace("³√", r"\sqrt[3]"))
    text = text.strip("`* \t\n").removesuffix(".").rstrip()
    text = re.sub(r"^(\$\$?|\\\(|\\\[)(.*?)(\$\$?|\\\)|\\\])$", r"\2", text, flags=re.DOTALL)
    text = re.sub(r"√\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"√\s*(\d+|[a-zA-Z])", r"\\sqrt{\1}", text)
    text = text.translate(_SIGNS)
    # 3e8 and 3E-8 are numbers; math-verify would read Euler's number
    text = re.sub(
        r"(?<![A-Za-z\d.])(\d+(?:\.\d+)?)\s*[eE]\s*([-+]?\d+)(?![\d.])",
        lambda match: rf"{match[1]}\times 10^{{{int(match[2])}}}",
        text,
    )
    text = re.sub(r"(\d)\s*\*\s*10\s*\*\*\s*([-+]?\d+)", r"\1\\times 10^{\2}", text)
    text = re.sub(r"10\^\(([-+]?\d+)\)", r"10^{\1}", text)
    text = re.sub(r"\*\*\s*\(?([-+]?\d+)\)?", r"^{\1}", text)
    text = re.sub(r"^\s*(?:[~≈∼≃]|\\approx\b)\s*", "", text)
    text = re.sub(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)", lambda m: m[0].replace(" ", ""), text)
    text = re.sub(r"(?<![\d.])(\d+)\s+(\d+)/(\d+)(?![\d.])", r"\1\\frac{\2}{\3}", text)
    text = _FOREIGN.sub(lambda match: match[1] + _FOREIGN_UNITS[match[2]], text)
    return text.strip()


def split_unit(text: str) -> tuple[str, dict[str, int] | None]:
    """Return a value, and its unit as powers by name; None where it has none."""
    match = _WITH_UNIT.fullmatch(text)
    if match is None:
        return text, None
    powers: dict[str, int] = {}
    plain = re.sub(r"\\(?:text|mathrm|rm|textrm|operatorname|mathit|unit|si)\s*", "", match["unit"])
    plain = re.sub(r"\\cdot|\\times|\\[,; ]|\*|~", " ", plain)
    exponents = re.sub(r"\}\s*\^", "^", plain.replace("{", "").replace("}", ""))
    for slash, name, power in _UNIT_PART.findall(exponents):
        count = int(power or 1) * (-1 if slash else 1)
        powers[name] = powers.get(name, 0) + count
    return match["value"].strip(), {name: power for name, power in powers.items() if power}
