"""`rl data`: training rows from the published set or from own documents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from sandbox_lite.errors import SpecError

if TYPE_CHECKING:
    from typing import Literal

    from sandbox_lite.rl.formats import Baseline


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("data")(make)


def make(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")],
    documents: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Documents of your own, as text.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL: question, answer, documents, qa_type."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="Rows as bench reads them.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="F,F", help="ours, trl, verl.")
    ] = "ours,trl,verl",
    baseline: Annotated[
        str, typer.Option(metavar="KIND", help="none, text-only or context-in-prompt.")
    ] = "none",
    validation: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=0.9, help="Rows that are set aside.")
    ] = 0.05,
    distractors: Annotated[
        int, typer.Option(metavar="N", min=0, help="Documents of other rows in every row.")
    ] = 0,
    section_bytes: Annotated[
        int, typer.Option(metavar="N", min=0, help="Cut longer documents; 0: never.")
    ] = 32 * 1024,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most so many rows, drawn.")
    ] = None,
    turns: Annotated[
        int, typer.Option(metavar="N", min=1, help="Of an episode, as the prompt tells.")
    ] = 100,
    seed: Annotated[int, typer.Option(metavar="N", help="Of every random draw.")] = 0,
    prompts: Annotated[
        str, typer.Option(metavar="WHICH", help="ours, paper, or a directory.")
    ] = "ours",
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="Of the published set.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", metavar="", help="Data from the cache alone.")
    ] = False,
) -> None:
    """Make training rows: documents become files of a sandbox and never part of the prompt.

    Without a source it is the published set, daixuancheng/llm-in-sandbox-rl. The baselines are
    made of the same rows with the same seed: text only (no computer), and a computer with the
    documents in the prompt.

    \b
    Examples:
      sandbox-lite rl data --out rows --distractors 3
      sandbox-lite rl data --out rows --documents docs --questions q.jsonl
      sandbox-lite rl data --out text --baseline text-only --format trl
    """
    from sandbox_lite.rl import data as training

    if (documents is None) != (questions is None):
        raise SpecError("--documents and --questions go together", hint="name both")
    if data is not None and documents is not None:
        raise SpecError("two sources of rows are named", hint="leave out --data or --documents")
    own = data or documents
    if own is not None and (revision is not None or offline):
        raise SpecError("--revision and --offline are for the published set", hint="leave them out")
    settings = training.DataSettings(
        forms=tuple(dict.fromkeys(word.strip() for word in form.split(",") if word.strip())),
        baseline=cast("Baseline", baseline),
        validation=validation,
        seed=seed,
        distractors=distractors,
        section_bytes=section_bytes,
        limit=limit,
        turns=turns,
    )
    training.check(out)
    if documents is not None and questions is not None:
        rows = training.from_documents(documents, questions)
    elif data is not None:
        rows = training.from_file(data)
    else:
        rows = training.published(revision=revision, offline=offline)
    made = training.write(rows, out, settings, prompts=_prompts(prompts))
    print(f"{made.train} rows to train on, {made.validation} to validate, in {made.folder}:")
    for name in (*made.files, training.MANIFEST):
        print(f"  {name}")
    if "ours" in settings.forms:
        mode = {"none": "", "text-only": " --mode plain", "context-in-prompt": " --mode sandbox"}
        example = made.folder / "ours-train.jsonl"
        print(f"Try them: sandbox-lite bench context --data {example}{mode[baseline]}")


def _prompts(text: str) -> Literal["ours", "paper"] | Path:
    if text == "ours" or text == "paper":
        return text  # type: ignore[return-value]
    return Path(text)
