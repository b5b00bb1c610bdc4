# SPDX-License-Identifier: Apache-2.0
"""Find prose that breaks the rules of docs/style.md.

``python -m tests.support.prose PATH...`` lists the findings in files and folders, one a line.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_WORDS = 30
"""Words that one sentence may have. The guide asks for 20; the rest is slack for names and figures."""

_OPENINGS = re.compile(
    r"(?:What|Who|Whom|Whose|Whoever|Whatever|Whether|That|Of|As|And|Or|Those|Likewise|Has|Have|By whom)\b"
)
_WORDS = re.compile(
    r"\b(?:somebody|nobody|whoever|whatever becomes|anew|beside|for good|shall|shalt|heeds?|heeded"
    r"|lets? go of|let go|tells?|told|hears?|heard|says|said|knows|wants|sings?|sung"
    r"|(?:he|she) (?:is|has|was|may|can|must|does|will)|his own|himself)\b",
    re.IGNORECASE,
)
_TEST_NAME = re.compile(
    r"_(?:who|whose|whom|whoever|nobody|somebody|anew|tells?|told|hears?|heard|says|said|knows|wants|shall|beside)(?=_|$)"
    r"|^test_(?:what|who|whose|that|of|and|or|those|has|have)_"
)
_CODE = re.compile(r"```.*?```|``[^`]*``|`[^`]*`|https?://\S+", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"(])|\n\s*\n|\n\s*(?=[-*] |\d+\. |\| )")
_SECTION = re.compile(r"^\s*(?:Args|Returns|Raises|Yields|Attributes|Note|Example|Examples):\s*$")
_HELP = ("help", "epilog", "description", "short_help")
_PRAGMA = re.compile(r"^#\s*(?:type:|noqa|pragma|SPDX|mypy:|ruff:|!)")


@dataclass(frozen=True)
class Passage:
    """A piece of prose and where it stands."""

    path: Path
    line: int
    kind: str
    text: str


@dataclass(frozen=True)
class Finding:
    """A rule that a passage breaks."""

    passage: Passage
    reason: str
    excerpt: str

    def __str__(self) -> str:
        where = self.passage.path
        if where.is_relative_to(ROOT):
            where = where.relative_to(ROOT)
        return f"{where}:{self.passage.line}: {self.passage.kind}: {self.reason}: {self.excerpt}"


def passages(path: Path) -> Iterator[Passage]:
    """Yield the prose of a Python, proto or Markdown file."""
    if path.suffix == ".py":
        yield from _of_python(path)
    elif path.suffix == ".proto":
        yield from _of_proto(path)
    elif path.suffix == ".md":
        yield from _of_markdown(path)
    else:
        yield from _of_hash_comments(path)


def findings(passage: Passage) -> Iterator[Finding]:
    """Yield each rule that a passage breaks."""
    if passage.kind == "test name":
        if broken := _TEST_NAME.search(passage.text):
            yield Finding(passage, f"word {broken[0].strip('_')!r}", passage.text)
        return
    for sentence in sentences(passage.text):
        excerpt = " ".join(sentence.split())[:100]
        opening = sentence.lstrip("-* \"'(")
        if passage.kind in ("error", "log event"):
            opening = opening[:1].upper() + opening[1:]
        if broken := _OPENINGS.match(opening):
            yield Finding(passage, f"opening {broken[0]!r}", excerpt)
        for broken in _WORDS.finditer(sentence):
            yield Finding(passage, f"word {broken[0]!r}", excerpt)
        if (count := len(sentence.split())) > MOST_WORDS and not sentence.lstrip().startswith("|"):
            yield Finding(passage, f"sentence of {count} words", excerpt)


def sentences(text: str) -> list[str]:
    """Return the sentences of a passage, its code spans replaced by a neutral word."""
    return [each for each in _SENTENCE_END.split(_CODE.sub("CODE", text)) if each.strip()]


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files with prose among ``paths`` and below them."""
    for path in paths:
        if path.is_file():
            yield path
            continue
        for file in sorted(path.rglob("*")):
            if file.suffix in (".py", ".proto", ".md") and "_pb2" not in file.name:
                yield file


def _of_python(path: Path) -> Iterator[Passage]:
    source = path.read_text()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        yield from _docstrings(path, node)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in node.exc.args:
                if text := _literal(argument):
                    yield Passage(path, argument.lineno, "error", text)
        if isinstance(node, ast.Call):
            yield from _calls(path, node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield Passage(path, node.lineno, "test name", node.name)
    yield from _comments(path, source)


def _docstrings(path: Path, node: ast.AST) -> Iterator[Passage]:
    """Yield a scope's docstring and those of its fields."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in node.body:
        match child:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield from _blocks(path, child.lineno, text)


def _blocks(path: Path, line: int, text: str) -> Iterator[Passage]:
    """Yield a docstring's paragraphs, each entry of a section on its own."""
    block: list[str] = []
    start = line
    for offset, row in enumerate(text.split("\n")):
        entry = re.match(r"^\s+[\w*]+(?:, [\w*]+)*:\s+\S", row) is not None
        quoted = row.lstrip().startswith((">>>", "...", "├", "└", "│", "|"))
        if not row.strip() or _SECTION.match(row) or entry or quoted:
            if block:
                yield Passage(path, start, "docstring", "\n".join(block))
            block = []
            if quoted or _SECTION.match(row):
                continue
            row = row.split(":", 1)[1] if entry else row
        if row.strip():
            if not block:
                start = line + offset
            block.append(row)
    if block:
        yield Passage(path, start, "docstring", "\n".join(block))


def _calls(path: Path, call: ast.Call) -> Iterator[Passage]:
    """Yield help texts and log events."""
    for keyword in call.keywords:
        if keyword.arg in ("help", "epilog", "description", "short_help") and (
            text := _literal(keyword.value)
        ):
            yield Passage(path, keyword.value.lineno, "help text", text)
    function = call.func
    if (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id in ("log", "_log", "logger")
        and call.args
        and (text := _literal(call.args[0]))
    ):
        yield Passage(path, call.lineno, "log event", text)
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    if isinstance(name, str) and name.endswith(("Error", "Failure", "Refusal")):
        for argument in call.args:
            if text := _literal(argument):
                yield Passage(path, argument.lineno, "error", text)


def _literal(node: ast.AST) -> str:
    """Return a string literal's text, its placeholders replaced by a neutral word; empty if it is none."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_literal(value) or "X" for value in values)
        case ast.BinOp(left=left, right=right, op=ast.Add()):
            return _literal(left) + _literal(right)
    return ""


def _comments(path: Path, source: str) -> Iterator[Passage]:
    """Yield comments, consecutive lines of one column as one passage."""
    block: list[str] = []
    start, before, column = 0, -2, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or _PRAGMA.match(token.string):
            continue
        row, col = token.start
        if block and (row != before + 1 or col != column):
            yield Passage(path, start, "comment", "\n".join(block))
            block = []
        if not block:
            start = row
        block.append(token.string.lstrip("# "))
        before, column = row, col
    if block:
        yield Passage(path, start, "comment", "\n".join(block))


def _of_proto(path: Path) -> Iterator[Passage]:
    yield from _of_line_comments(path, "//")


def _of_hash_comments(path: Path) -> Iterator[Passage]:
    yield from _of_line_comments(path, "#")


def _of_line_comments(path: Path, mark: str) -> Iterator[Passage]:
    block: list[str] = []
    start = 1
    for number, row in enumerate(path.read_text().split("\n"), 1):
        _, found, comment = row.partition(mark)
        own_line = row.strip().startswith(mark)
        if not found or not own_line:
            if block:
                yield Passage(path, start, "comment", "\n".join(block))
                block = []
            if found and mark == "//" and "://" not in row:
                yield Passage(path, number, "comment", comment.strip())
            continue
        if comment.strip().startswith(("SPDX", "!")):
            continue
        if not block:
            start = number
        block.append(comment.strip())
    if block:
        yield Passage(path, start, "comment", "\n".join(block))


def _of_markdown(path: Path) -> Iterator[Passage]:
    text = re.sub(r"```.*?```", lambda code: "\n" * code[0].count("\n"), path.read_text(), flags=re.DOTALL)
    line = 1
    for paragraph in re.split(r"(\n\s*\n|\n(?=[-*|#] ?|\d+\. ))", text):
        if paragraph.strip() and not paragraph.lstrip().startswith(("|", "<", "!")):
            words = re.sub(r"\]\([^)]*\)", "]", paragraph).lstrip("\n-*# ")
            yield Passage(path, line + len(paragraph) - len(paragraph.lstrip("\n")), "text", words)
        line += paragraph.count("\n")


def main() -> int:
    """List the findings in the files and folders given as arguments."""
    count = 0
    for file in files(Path(argument).resolve() for argument in sys.argv[1:] or [str(ROOT)]):
        for passage in passages(file):
            for finding in findings(passage):
                print(finding)
                count += 1
    print(f"{count} findings", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
