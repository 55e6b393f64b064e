"""Every grader on answers made by hand, right and wrong, in the process that grades."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox_lite.bench.bounded import BoundedGraders
from sandbox_lite.bench.graders import GRADERS
from sandbox_lite.bench.graders.grader import Question

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.bench.task import Scorer

Case = tuple[str, str, float]
"""Answer, truth, value."""

MATHEMATICS: list[Case] = [
    (r"\boxed{204}", "204", 1),
    ("204\n", "204", 1),
    ("204", r"\boxed{204}", 1),
    (r"\boxed{205}", "204", 0),
    ("12", "21", 0),
    ("The answer is 204", "204", 1),
    ("The answer is 204, since 3 = 3.", "204", 1),
    ("First I tried 100.\nThe final answer is 204.", "204", 1),
    ("I first thought 204.\nThe final answer is 100.", "204", 0),
    ("204 because 100+104=204", "204", 1),
    ("204\n\nExplanation: I computed 3 things", "204", 1),
    ("\boxed{204}", "204", 1),  # a shell has made a backspace of \b
    (r"\boxed{\boxed{204}}", "204", 1),
    (r"\boxed{1} or \boxed{2}", "2", 1),
    (r"\boxed{204} is in \boxed{}", "204", 1),
    (r"\boxed{20", "20", 0),  # cut off: it may have been 204
    ("2 or 3", "2", 0),
    # signs
    ("-5", "5", 0),
    ("5", "-5", 0),
    ("\u22125", "-5", 1),
    ("\u22125", "5", 0),
    ("\u20135", "-5", 1),
    # fractions and other notations
    (r"\boxed{\frac{1}{2}}", "0.5", 1),
    (r"\boxed{\dfrac12}", r"\frac{1}{2}", 1),
    ("1/2", r"\frac12", 1),
    (r"\boxed{\frac{2}{1}}", r"\frac{1}{2}", 0),
    ("1,000", "1000", 1),
    ("070", "70", 1),
    ("204.0", "204", 1),
    ("**204**", "204", 1),
    ("`204`", "204", 1),
    ("$204$", "204", 1),
    (r"\(204\)", "204", 1),
    ("x=12", "12", 1),
    (r"Answer: \boxed{x = 12}", "12", 1),
    ("3e8", r"3\times 10^8", 1),
    ("3×10^8", "3e8", 1),
    ("3×10⁸", r"3\times 10^{8}", 1),
    ("3e7", r"3\times 10^8", 0),
    ("√2", r"\sqrt{2}", 1),
    (r"\sqrt{2}", "1.41421356", 1),
    ("π", r"\pi", 1),
    ("3.14", r"\pi", 0),
    ("(x+1)^2", "x^2+2x+1", 1),
    ("x^2+1", "x^2+2x+1", 0),
    ("{3, 2, 1}", "1, 2, 3", 1),
    ("3,4", "(3,4)", 1),  # a pair and a list are the same to the library
    ("50%", "50", 1),
    # units
    (r"\boxed{5 m/s}", "5", 1),
    ("5", "5 m/s", 1),
    ("5 m/s", r"5\ \mathrm{m/s}", 1),
    (r"5\ \mathrm{m\,s^{-1}}", "5 m/s", 1),
    ("5 km/h", r"5\ \mathrm{m/s}", 0),
    (r"\boxed{5\,\text{km/h}}", "5 m/s", 0),
    ("10 N·m", "10 N m", 1),
    ("10 J", "10 N m", 0),
    ("1.5 \\times 10^{-3} m", "1.5e-3 m", 1),
    ("60°", "60", 1),
    ("60 degrees", "60", 1),
    ("$5", "5", 1),
    # other languages and scripts
    ("Ответ: 204", "204", 1),
    ("Ответ: 205", "204", 0),
    ("答案是204。", "204", 1),
    ("答案：-204", "204", 0),
    ("２０４", "204", 1),
    # words
    ("", "5", 0),
    ("I do not know", "5", 0),
    ("two hundred four", "204", 0),
    ("pairs", "Paris", 0),  # a product of the same letters
    (r"\boxed{\text{Paris}}", "paris", 1),
    ("9" * 3000, "5", 0),
    ("9" * 60000, "5", 0),
    # boxed fractions, again with their signs
    (r"\boxed{-\frac{1}{2}}", "-0.5", 1),
    (r"\boxed{\frac{-1}{2}}", "-0.5", 1),
    (r"\boxed{\frac{1}{2}}", "-0.5", 0),
    (r"\boxed{1\frac{1}{2}}", "1.5", 1),
    ("1 1/2", "3/2", 1),
    ("½", "0.5", 1),
    ("1½", "3/2", 1),
    ("\u2212½", "-0.5", 1),
    ("½", "-0.5", 0),
    # units of other languages
    ("5 м/с", "5 m/s", 1),
    ("5 м/с", "5 km/h", 0),
    ("Ответ: 5 см", "5", 1),
    ("Ответ: 6 см", "5", 0),
    ("答案：5米", "5", 1),
    ("答案：5千米", "5 m", 0),
    ("\\boxed{5\\ \\text{см}}", "5", 1),
    # numbers as they are written elsewhere
    ("Ответ: 3,5", "3.5", 1),
    ("Ответ: 3,6", "3.5", 0),
    ("1,234", "1.234", 0),  # a thousand, not a decimal comma
    ("1 000", "1000", 1),
    ("1\u00a0000", "1000", 1),
    ("204 204", "204", 0),
    ("٢٠٤", "204", 1),
    ("２０５", "204", 0),
    ("2**10", "1024", 1),
    ("~204", "204", 1),
    (r"\infty", "∞", 1),
    (r"-\infty", "∞", 0),
    # what is said around it
    ("204\nI hope this helps!", "204", 1),
    ("Ответ: 204 рубля", "204", 1),
    ("Ответ: -5", "5", 0),
    ("Ответ: \u22125", "-5", 1),
    ("最终答案为 204", "204", 1),
    ("答案是205，不是204", "204", 0),
    ("not 204", "204", 0),
    ("The answer is not 204 but 205", "204", 0),
    ("The answer is not 204 but 205", "205", 1),
    (r"\boxed{205}" "\n204", "204", 0),
    ("5 or -5", "5", 0),
    (r"\pm 5", "5", 0),
]

MATHEMATICS_PAPER: list[Case] = [
    (r"\boxed{204}", "204", 1),
    ("204", "204", 1),
    ("The answer is 204", "204", 0),
    ("\boxed{204}", "204", 0),
    (r"\boxed{5", "5", 1),
    ("-5", "5", 0),
    ("3e8", r"3\times 10^8", 0),
    ("pairs", "Paris", 1),
    (r"5\ \mathrm{km/h}", r"5\ \mathrm{m/s}", 1),
    ("1,000", "1000", 1),
    ("070", "70", 1),
    (r"\sqrt{2}", "1.41421356", 1),
    ("(3,4)", "3,4", 1),
    ("", "5", 0),
    (r"\boxed{\frac{1}{2}}", "0.5", 1),
    (r"\boxed{\frac{2}{1}}", "0.5", 0),
    (r"\boxed{1} or \boxed{2}", "2", 1),
    (r"\boxed{1} or \boxed{2}", "1", 0),
    ("Ответ: 204", "204", 1),  # the library takes the number out of a text it cannot read
    ("答案是204", "204", 0),
    ("205", "204", 0),
    (r"\boxed{5\text{ m/s}}", "5", 1),
    (r"\boxed{5 m/s}", "5", 0),  # a product
]

CHOICE: list[Case] = [
    ("A", "A", 1),
    ("a", "A", 1),
    ("A", "B", 0),
    ("(A)", "A", 1),
    ("A.", "A", 1),
    ("B \n\n", "B", 1),
    ("**B**", "B", 1),
    ("J", "J", 1),
    ("I", "I", 1),
    (r"\boxed{C}", "C", 1),
    (r"\boxed{\text{C}}", "C", 1),
    (r"The answer is $\boxed{(C)}$", "C", 1),
    (r"\boxed{C", "C", 0),
    ("D) sodium chloride", "D", 1),
    ("C: carbon", "C", 1),
    ("A\nThis is because of the enzyme.", "A", 1),
    ("Therefore, the answer is D) 5 mol", "D", 1),
    ("B. because A is wrong", "B", 1),
    ("B. because A is wrong", "A", 0),
    ("The answer is c.", "C", 1),
    ('{"answer": "C"}', "C", 1),
    ("the answer is: **D**", "D", 1),
    ("The correct choice is C because A is not soluble", "C", 1),
    ("Option A is wrong. The answer is B.", "B", 1),
    ("The answer is A. Wait, no. The answer is B.", "B", 1),
    ("The answer is A. Wait, no. The answer is B.", "A", 0),
    # more than one is none
    ("A, C", "A", 0),
    ("A or C", "C", 0),
    ("Answer: A or B", "A", 0),
    ("The answer is A and C", "A", 0),
    ("A B C D", "A", 0),
    ("ABCD", "A", 0),
    # letters that are no choice
    ("It is a cat", "A", 0),
    ("I do not know", "I", 0),
    ("None", "N", 0),
    ("Vitamin C deficiency", "C", 0),
    ("The correct answer is a beta blocker", "A", 0),
    ("", "A", 0),
    # other languages and scripts
    ("Ответ: В", "B", 1),  # the Russian letter
    ("Ответ: Г", "B", 0),
    ("答案是C。", "C", 1),
    ("选B", "B", 1),
    ("Answer：C", "C", 1),
    ("Ａ", "A", 1),
    ("B\n\nExplanation: A is too small.", "B", 1),
    ("B\n\nExplanation: A is too small.", "A", 0),
    ("First A looked right.\n\nB", "B", 1),
    ("A\nB", "A", 0),
    ("B) 5\nC) 6", "B", 0),  # a list of options is no choice
    ("选项A正确", "A", 1),
    ("正确答案是 D", "D", 1),
    ("我选择C。", "B", 0),
    ("Правильный ответ: (D)", "D", 1),
    ("Я выбираю B", "B", 1),
    ("Я выбираю B", "C", 0),
    ("Hepatitis B virus", "B", 0),
    ("Answer: B (not A)", "B", 1),
    (r"\boxed{A, C}", "A", 0),
]

CHOICE_PAPER: list[Case] = [
    ("A", "A", 1),
    ("a", "A", 1),
    (r"\boxed{C}", "C", 1),
    ('{"answer": "C"}', "C", 1),
    ("The answer is C", "C", 1),
    ("It is a cat", "A", 1),
    ("I do not know", "I", 1),
    ("B. because A is wrong", "B", 0),
    ("B. because A is wrong", "A", 1),
    ("A, C", "C", 1),
    ("None", "N", 1),
    ("", "A", 0),
    ("(A)", "A", 1),
    ("The choice is B", "B", 1),
    ("The choice is B", "A", 0),
    (r"\boxed{c}", "C", 1),
    (r"\boxed{C}", "D", 0),
    ("Answer: D", "D", 1),
    ("Answer: D", "A", 0),
    ("答案：C", "C", 1),
    ("A or B", "A", 0),
    ("5", "A", 0),
]

CHOICES: list[Case] = [
    ("A,C", "A, C", 1),
    ("C,A", "A, C", 1),
    ("A, C", "C,A", 1),
    ("a, c", "A,C", 1),
    ("AC", "A,C", 1),
    ("A;C", "A,C", 1),
    ("A and C", "A,C", 1),
    ("(A), (C)", "A,C", 1),
    ("[A, C]", "A,C", 1),
    ("A, A, C", "A,C", 1),
    (r"\boxed{A, C}", "A,C", 1),
    (r"\boxed{\text{A, C}}", "A,C", 1),
    ("A. foo\nC. bar", "A,C", 1),
    ("- A\n- C", "A,C", 1),
    ("The answer is A and C", "A,C", 1),
    ("A、C", "A,C", 1),
    ("答案：A，C", "A,C", 1),
    ("Ответ: A, C", "A,C", 1),
    ("А, С", "A,C", 1),  # Russian letters
    ("A", "A,C", 2 / 3),  # precision 1, recall 1/2
    ("A,B,C", "A,C", 4 / 5),  # precision 2/3, recall 1
    ("A,B", "A,C", 1 / 2),
    ("A,B,C,D", "A,C,E", 4 / 7),  # precision 2/4, recall 2/3
    ("B,D", "A,C", 0),
    ("I do not know", "A,C", 0),
    ("", "A,C", 0),
    ("A和C", "A,C", 1),
    ("A и C", "A,C", 1),
    (r"\boxed{A}, \boxed{C}", "A,C", 1),
    (r"\boxed{A}, \boxed{B}", "A,C", 1 / 2),
    ("正确答案是A、C", "A,C", 1),
    ("It is a cat", "A,C", 0),
    (r"\boxed{A, C", "A,C", 0),
    ("D,E,F", "A,C", 0),
]

CHOICES_PAPER: list[Case] = [
    ("A, C", "C,A", 1),
    ("a,c", "A,C", 1),
    ("A", "A,C", 2 / 3),
    ("A and C", "A,C", 0),
    (r"\boxed{A, C}", "A,C", 0),
    ("A,,C,", "A,C", 1),
    ("", "A,C", 0),
    ("A,C", "A,C", 1),
    ("C, A", "A,C", 1),
    (" a , c ", "A,C", 1),
    ("A,A,C", "A,C", 1),
    ("A,C\n", "A,C", 1),
    ("A,B,C", "A,C", 4 / 5),
    ("A,B", "A,C", 1 / 2),
    ("A;C", "A,C", 0),
    ("AC", "A,C", 0),
    ("B", "A,C", 0),
    ("A、C", "A,C", 0),
    ("Ответ: A, C", "A,C", 1 / 2),
    ("The answer is A and C", "A,C", 0),
]

OPEN: list[Case] = [
    ("5", "5", 1),
    ("-5", "5", 0),
    ("43", "42", 0),
    ("1/2", "0.5", 1),
    ("the answer is 42", "42", 1),
    ("42 km", "42 km", 1),
    ("42 mi", "42 km", 0),
    ("the cat", "the cat", 1),
    ("The cats.", "the cat", 1),  # stemmed
    ("cat", "the cat", 2 / 3),  # precision 1, recall 1/2
    ("the black cat", "the cat", 4 / 5),  # precision 2/3, recall 1
    ("cat the", "the cat", 1 / 2),  # the longest common subsequence is one word
    ("a dog", "the cat", 0),
    ("pairs", "Paris", 0),
    ("кошка", "кошка", 1),
    ("красная кошка", "кошка", 2 / 3),
    ("собака", "кошка", 0),
    ("北京", "北京", 1),
    ("上海", "北京", 0),
    ("北京市", "北京", 4 / 5),  # three characters, two of them right
    ("It rose by -3.5 percent", "It rose by 3.5 percent", 4 / 5),
    ("", "the cat", 0),
]

OPEN_PAPER: list[Case] = [
    ("5", "5", 1),
    ("-5", "5", 1),  # the minus is no token
    ("the cat", "the cat", 1),
    ("cat", "the cat", 2 / 3),
    ("красная кошка", "кошка", 0),
    ("pairs", "Paris", 1),
    ("1/2", "0.5", 1),
    ("43", "42", 0),
    ("42", "42", 1),
    (r"\boxed{42}", "42", 1),
    ("cat the", "the cat", 1),  # a product of the same letters
    ("the black cat", "the cat", 4 / 5),
    ("a dog", "the cat", 0),
    ("The cats.", "the cat", 1),
    ("собака", "кошка", 0),
    ("北京", "上海", 0),
    ("", "the cat", 0),
    ("  the cat \n", "the cat", 1),
    ("nothing", "the cat", 0),
    ("6", "5", 0),
]

ROUGE: list[Case] = [
    ("the cat", "the cat", 1),
    ("The Cat!", "the cat", 1),
    ("the cat\n", "the cat", 1),
    ("running", "runs", 1),  # both are `run`
    ("-5", "-5", 1),
    ("\u22125", "-5", 1),
    ("Красная Кошка", "красная кошка", 1),
    ("北京", "北京", 1),
    ("cat", "the cat", 2 / 3),  # precision 1, recall 1/2
    ("the black cat", "the cat", 4 / 5),  # precision 2/3, recall 1
    ("cat the", "the cat", 1 / 2),  # in the other order one is common
    ("a b d", "a b c d", 6 / 7),  # precision 1, recall 3/4
    ("the cat\n\nHope this helps", "the cat", 4 / 7),  # precision 2/5, recall 1
    ("42 km", "42", 2 / 3),
    ("красная кошка", "кошка", 2 / 3),
    ("北京市", "北京", 4 / 5),
    ("我在北京", "北京", 2 / 3),  # precision 2/4, recall 1
    ("-5", "5", 0),
    ("3.5", "3,5", 0),
    ("a dog", "the cat", 0),
    ("собака", "кошка", 0),
    ("上海", "北京", 0),
    ("", "the cat", 0),
    ("...", "the cat", 0),
    ("dog " * 10_000, "the cat", 0),
]

ROUGE_PAPER: list[Case] = [
    ("the cat", "the cat", 1),
    ("THE CAT", "the cat", 1),
    ("the-cat", "the cat", 1),
    ("cats", "cat", 1),
    ("running", "runs", 1),
    ("-5", "5", 1),  # the minus is no token
    ("3.5", "3,5", 1),
    ("cat", "the cat", 2 / 3),
    ("the black cat", "the cat", 4 / 5),
    ("cat the", "the cat", 1 / 2),
    ("a b d", "a b c d", 6 / 7),
    ("42 km", "42", 2 / 3),
    ("42km", "42", 0),
    ("a dog", "the cat", 0),
    ("dog", "cat", 0),
    ("6", "5", 0),
    ("кошка", "кошка", 0),  # no letter of it is a token
    ("北京", "北京", 0),
    ("", "the cat", 0),
    ("...", "the cat", 0),
]

TABLES: list[tuple[str, Scorer, list[Case]]] = [
    ("math-verify", "default", MATHEMATICS),
    ("math-verify", "paper", MATHEMATICS_PAPER),
    ("choice", "default", CHOICE),
    ("choice", "paper", CHOICE_PAPER),
    ("choices-f1", "default", CHOICES),
    ("choices-f1", "paper", CHOICES_PAPER),
    ("rouge-l", "default", ROUGE),
    ("rouge-l", "paper", ROUGE_PAPER),
    ("open", "default", OPEN),
    ("open", "paper", OPEN_PAPER),
]


@pytest.fixture(scope="module")
def graders() -> Iterator[BoundedGraders]:
    with BoundedGraders(timeout=20) as opened:
        yield opened


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "scorer", "cases"), TABLES, ids=[f"{name}-{scorer}" for name, scorer, _ in TABLES]
)
def test_answers_have_their_value(
    graders: BoundedGraders, name: str, scorer: Scorer, cases: list[Case]
) -> None:
    found = {
        (answer[:200], truth): graders.score(
            name, Question(answer=answer, truth=truth, scorer=scorer)
        ).value
        for answer, truth, _ in cases
    }
    wanted = {(answer[:200], truth): pytest.approx(value) for answer, truth, value in cases}
    assert found == wanted


LEAST = 20
"""Cases of each grader; tests of `judge` and `ifbench` ask for as many."""


@pytest.mark.parametrize(("name", "scorer", "cases"), TABLES)
def test_the_tables_hold_right_and_wrong_answers_enough(
    name: str, scorer: Scorer, cases: list[Case]
) -> None:
    assert len({(answer, truth) for answer, truth, _ in cases}) == len(cases) >= LEAST, name
    values = [value for _, _, value in cases]
    assert sum(value == 1 for value in values) >= 5, (name, scorer)
    assert sum(value == 0 for value in values) >= 5, (name, scorer)


def test_every_grader_that_runs_in_a_process_has_both_tables() -> None:
    tried = {(name, scorer) for name, scorer, _ in TABLES}
    here = {name for name, grader in GRADERS.items() if grader.score and not grader.tried_by_row}
    # those of `bench demo` alone, which have no published scorer: tests/unit/test_demo_graders.py
    here -= {"animation", "exact", "name", "poster", "quantity", "trip-page", "tune"}
    assert tried == {(name, scorer) for name in here for scorer in ("default", "paper")}


def test_rouge_alone(graders: BoundedGraders) -> None:
    verdict = graders.score("rouge-l", Question(answer="a b d", truth="a b c d"))
    # the longest common subsequence is a b d: precision 3/3, recall 3/4
    assert verdict.value == pytest.approx(6 / 7)
    assert verdict.details["precision"] == 1.0
    assert verdict.details["recall"] == 0.75


def test_verdicts_say_why(graders: BoundedGraders) -> None:
    open_box = graders.score("math-verify", Question(answer=r"\boxed{5", truth="5"))
    assert open_box.text == "the last box is never closed"
    units = graders.score("math-verify", Question(answer="5 km", truth="5 m"))
    assert units.text == "the units differ"
    several = graders.score("choice", Question(answer="A, C", truth="A"))
    assert several.text == "several choices"
    assert several.details["found"] == ["A", "C"]


def test_the_table_is_the_files() -> None:
    assert {grader.name for grader in GRADERS.values()} == set(GRADERS)
    assert [name for name, grader in GRADERS.items() if grader.score is None] == ["judge"]
