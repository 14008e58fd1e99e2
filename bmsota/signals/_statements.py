"""Cut DBC text into statements, each with its line, whatever is broken in between.

No standard stands behind DBC; the rules here are those the files of the field share. A statement begins with a keyword.
Those of `_TERMINATED` end at the first semicolon outside a string, the others where the next keyword stands.

Strategy for dirty text: after something that cannot be understood, go on at the next line that starts with a keyword.
The usual slip is a quotation mark that was forgotten: the string would then end at the *next* string's opening mark, and
every later string would be inside out. A string that runs into a new statement is therefore cut at the end of its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TERMINATED = frozenset({
    "BA_", "BA_DEF_", "BA_DEF_DEF_", "BA_DEF_DEF_REL_", "BA_DEF_REL_", "BA_DEF_SGTYPE_", "BA_REL_", "BA_SGTYPE_",
    "BO_TX_BU_", "CAT_", "CAT_DEF_", "CM_", "ENVVAR_DATA_", "EV_", "EV_DATA_", "FILTER", "SG_MUL_VAL_", "SGTYPE_",
    "SGTYPE_VAL_", "SIG_GROUP_", "SIG_TYPE_REF_", "SIG_VALTYPE_", "SIGTYPE_VALTYPE_", "VAL_", "VAL_TABLE_",
})  # fmt: skip
_OPEN_ENDED = frozenset({"VERSION", "NS_", "BS_", "BU_", "BO_", "SG_"})
KEYWORDS = _TERMINATED | _OPEN_ENDED

_TOKEN = re.compile(
    r"""
      (?P<space>   [ \t\r\f\v\ufeff]+ | //[^\n]* )
    | (?P<line>    \n )
    | (?P<string>  "(?:\\"|[^"])*" )
    | (?P<number>  [-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?![\w.]) )
    | (?P<word>    \w+ )  # Letters of any script: whether a name may have them is for `_check` to say.
    | (?P<mark>    [-+()\[\],|@;:] )
    | (?P<junk>    . )
    """,
    re.VERBOSE | re.DOTALL,
)

# Inside a string, a line that starts like this is the next statement, and the string was never closed.
_RUNAWAY = re.compile(
    r"\n[ \t]*(?:BO_|SG_|CM_|VAL_|BA_|BA_DEF_|BA_DEF_DEF_|VAL_TABLE_|SIG_VALTYPE_|SG_MUL_VAL_|BU_|BO_TX_BU_)[ \t]"
)

_BARE_POINT = re.compile(r"^([-+]?)\.")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: its keyword, and all of it as tokens joined by single spaces."""

    line: int
    keyword: str
    text: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Text at this line that is no statement."""

    line: int
    reason: str


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    line: int
    is_first: bool
    """Whether it is the first on its line."""


def split(text: str) -> tuple[list[Statement], list[Trouble]]:
    """Every statement of *text*, its lines separated by line feeds, and every stretch that is none. Raises nothing."""
    troubles: list[Trouble] = []
    tokens = _tokens(text, troubles)
    statements: list[Statement] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.text not in KEYWORDS:
            end = _next_start(tokens, at + 1)
            troubles.append(Trouble(token.line, f"not a statement: {_shown(token.text)}"))
            at = end
            continue
        end, complaint = _end(tokens, at)
        if complaint:
            troubles.append(Trouble(token.line, complaint))
        else:
            statements.append(Statement(token.line, token.text, " ".join(each.text for each in tokens[at:end])))
        at = end
    return statements, troubles


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _tokens(text: str, troubles: list[Trouble]) -> list[_Token]:
    tokens: list[_Token] = []
    line, first, at = 1, True, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None  # The last alternative takes any character.
        kind, value, end = match.lastgroup or "", match.group(), match.end()
        if kind == "string" and _RUNAWAY.search(value):
            kind = "junk"
        if kind == "junk" and value.startswith('"'):
            troubles.append(Trouble(line, "a quotation mark is missing: the string does not end on its line"))
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            value = text[at:end]
            ended = value.rstrip().endswith(";")
            tokens.append(_Token("string", f'"{value[1:].rstrip().rstrip(";").rstrip()}"', line, first))
            if ended:
                tokens.append(_Token("mark", ";", line, False))
            at, first = end, False
            continue
        at = end
        if kind == "line":
            line, first = line + 1, True
        elif kind != "space":
            if kind == "number":
                value = _BARE_POINT.sub(r"\g<1>0.", value)  # ".5" is usual, but cantools knows only "0.5".
            tokens.append(_Token(kind, value, line, first))
            first = False
            line += value.count("\n")
    return tokens


def _next_start(tokens: list[_Token], at: int) -> int:
    """The next token that starts a statement for sure: a keyword at the start of a line."""
    while at < len(tokens) and not (tokens[at].is_first and tokens[at].text in KEYWORDS):
        at += 1
    return at


def _end(tokens: list[_Token], start: int) -> tuple[int, str]:
    """Where the statement that starts at *start* ends, and what is wrong if it does not end well."""
    keyword = tokens[start].text
    if keyword == "NS_":  # A list of keywords, one a line; it ends with the statement BS_.
        at = start + 1
        while at < len(tokens) and not (
            tokens[at].text in ("BS_", "BU_") and tokens[at + 1 : at + 2] and tokens[at + 1].text == ":"
        ):
            if (
                tokens[at].is_first
                and tokens[at].text == "BO_"
                and at + 1 < len(tokens)
                and tokens[at + 1].kind == "number"
            ):
                break
            at += 1
        return at, ""
    at = start + 1
    if keyword in _TERMINATED:
        while at < len(tokens):
            token = tokens[at]
            if token.text == ";":
                return at + 1, ""
            # Keywords occur inside (CM_ SG_ 1 Name, BA_DEF_ BO_, BA_ "x" BO_ 1), but not at the start of a line.
            if token.is_first and token.text in KEYWORDS and token.line != tokens[start].line:
                break
            at += 1
        return (
            at,
            f"expected ; at the end of {keyword}, got {_shown(tokens[at].text) if at < len(tokens) else 'the end'}",
        )
    while at < len(tokens) and tokens[at].text not in KEYWORDS:
        # A message or a signal may be broken over lines, but where a word ends a line and another begins the next, the
        # second is no part of it.
        if tokens[at].is_first and keyword in ("BO_", "SG_") and tokens[at].kind == tokens[at - 1].kind == "word":
            break
        at += 1
    return at, ""
