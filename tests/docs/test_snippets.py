"""The Python in the documentation runs, page by page, and prints what the page says.

A ``text`` fence right below a ``python`` fence is what that prints. A fence that cannot run has a
comment above it with the reason: ``<!-- not run: needs a GPU -->``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eventbus.cli.pages import PAGES
from eventbus.testing import check_loop

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"(?:<!-- not run: *(?P<reason>.*?) *-->\n+)?"
    r"^```python\n(?P<code>.*?)^```\n"
    r"(?:\n*^```text\n(?P<printed>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
EXPECTED = {"README.md", "elsewhere.md", "writing-handlers.md", "writing-loops.md", "handlers.md"}


@dataclass(frozen=True)
class Snippet:
    """One fence: its code, the line where that begins, what it prints, why it is not run."""

    code: str
    line: int
    printed: str | None
    reason: str | None


def snippets_of(text: str) -> list[Snippet]:
    return [
        Snippet(
            code=found["code"],
            line=text.count("\n", 0, found.start("code")),
            printed=found["printed"],
            reason=found["reason"],
        )
        for found in FENCE.finditer(text)
    ]


def pages() -> dict[str, Path]:
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]
    return {str(path.relative_to(ROOT)): path for path in sorted(found)}


WITH_CODE = [name for name, path in pages().items() if "```python" in path.read_text("utf-8")]


def run(snippet: Snippet, page: str, namespace: dict[str, object]) -> None:
    """Run a snippet in a page's namespace; tracebacks name the line of the page."""
    source = "\n" * snippet.line + snippet.code
    exec(compile(source, page, "exec", dont_inherit=True), namespace)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # Ignite's and torch's own
@pytest.mark.parametrize("name", WITH_CODE)
def test_a_page_runs_from_top_to_bottom_and_prints_what_it_says(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level("WARNING", logger="eventbus")  # put back afterwards, if a page changes it
    namespace: dict[str, object] = {"__name__": "page"}
    for snippet in snippets_of(pages()[name].read_text("utf-8")):
        if snippet.reason is None:
            run(snippet, name, namespace)
            printed = capsys.readouterr().out
            if snippet.printed is not None:
                assert printed == snippet.printed, f"{name}, below line {snippet.line}"


def test_the_loop_by_hand_goes_through_a_loader_without_batches() -> None:
    page = snippets_of(pages()["docs/writing-loops.md"].read_text("utf-8"))
    (loop,) = [snippet.code for snippet in page if "class Loop:" in snippet.code]
    loop, _, _ = loop.partition("print(check_loop")
    loader = "[[1, 2], [3, 4], [5]]"
    assert loader in loop
    namespace: dict[str, Any] = {}
    exec(loop.replace(loader, "[]"), namespace)
    check_loop(namespace["train_by_hand"]).raise_if_any()


@pytest.mark.parametrize("name", WITH_CODE)
def test_a_page_has_no_python_that_is_missed(name: str) -> None:
    text = pages()[name].read_text("utf-8")
    assert len(snippets_of(text)) == len(re.findall(r"^ *```(?:python|py)\b", text, re.MULTILINE))
    assert all(snippet.reason != "" for snippet in snippets_of(text))


def test_the_pages_with_code_are_found() -> None:
    assert {Path(name).name for name in WITH_CODE} >= EXPECTED


def test_links_between_the_pages_lead_somewhere() -> None:
    for name, path in pages().items():
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), f"{name} links {target}"


def test_a_snippet_is_read_with_its_line_its_output_and_its_reason() -> None:
    page = (
        "Text\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\nMore\n\n"
        "<!-- not run: needs a GPU -->\n```python\ncuda()\n```\n\n```sh\nls\n```\n"
    )
    assert snippets_of(page) == [
        Snippet("print(1)\n", 3, "1\n", None),
        Snippet("cuda()\n", 14, None, "needs a GPU"),
    ]


def test_generated_pages_are_no_exception() -> None:
    assert {f"docs/{name}" for name in PAGES} <= set(pages())
