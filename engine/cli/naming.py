"""What people would call a command. It names a file and stands in a snapshot, so it is never an argument that may be a secret."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

_SHELL = re.compile(r"(?:ba|da|k|z|a)?sh")
_INTERPRETER = re.compile(r"(python|pypy|node|nodejs|ruby|perl|php|java|deno|bun)[\d.]*")
_CODE = {
    "python": re.compile(r"-[bBdEhiIOPqRsSuvVx?]*c.*", re.DOTALL),
    "pypy": re.compile(r"-[bBdEhiIOPqRsSuvVx?]*c.*", re.DOTALL),
    "ruby": re.compile(r"-[acdlnpsSTvwy0-9]*e.*", re.DOTALL),
    "perl": re.compile(r"-(?:[acflnpsStTuUvwWX0-9]|i[^eE]*)*[eE].*", re.DOTALL),
    "php": re.compile(r"-[BrRE].*", re.DOTALL),
}
"""Options that are followed by a program's text: what comes after it is unknown."""
_SCRIPT_CODE = re.compile(r"-(?:e|p|pe|-eval|-print)(?:=.*)?", re.DOTALL)
"""The same of interpreters of JavaScript; others have no such options."""
_MODULE = re.compile(r"-[bBdEhiIOPqRsSuvVx?]*m(.*)")
_LOADS = frozenset(("-r", "--require", "--import", "--loader", "--experimental-loader"))
"""Options that are followed by a script which is not the program."""
_SCRIPT = re.compile(r".+\.(?:py|pyz|js|mjs|cjs|ts|mts|cts|jsx|tsx|rb|pl|php|phar|sh|bash)")
_PLAIN = re.compile(r"[\w.+@-]+")
_ASSIGNMENT = re.compile(r"\w+(?:\[[^]]*\])?\+?=")
_OPERATOR = re.compile(r"[();<>|&]+")
_PREPARES = re.compile(
    r"cd|export|set|shopt|umask|ulimit|source|\.|eval|trap|unset|readonly|declare|local|alias|echo|printf|:|true"
)
"""Words of a shell after which comes what it is for."""
_LEADS = re.compile(r"if|then|else|elif|while|until|do|!|\{|time|exec|command|nohup")
"""Words that are followed by a command."""
NESTED_LIMIT = 8
"""Shells in a shell that are looked into: `sh -c "bash -c …"` is seen, more is nonsense."""


def name_of(command: Sequence[str], nested: int = 0) -> str:
    """`payment` for `python payment.py` and for `./payment --port 1`."""
    program = Path(command[0]).name
    if _SHELL.fullmatch(program):
        return _of_shell(command, nested) or program
    interpreter = _INTERPRETER.fullmatch(program)
    if interpreter:
        return _of_interpreter(interpreter[1], command[1:]) or program
    return Path(program).stem or program


def name_of_process(line: bytes) -> str:
    """The same of what /proc/PID/cmdline has: "" where that is nothing. One word may be a title with arguments in it."""
    words = [os.fsdecode(word) for word in line.rstrip(b"\0").split(b"\0")]
    if len(words) == 1:
        words = [word.rstrip(":") for word in words[0].split()]
    return name_of(words) if words else ""


def _of_interpreter(interpreter: str, arguments: Sequence[str]) -> str:
    """The script, the module or the archive that it runs; "" where that cannot be told from a value of an option."""
    code = _CODE.get(interpreter, _SCRIPT_CODE)
    python = interpreter in ("python", "pypy")
    rest, after_option = iter(arguments), False
    for argument in rest:
        if code.fullmatch(argument):
            return ""
        module = _MODULE.fullmatch(argument) if python else None
        if module:
            return _plain((module[1] or next(rest, "")).split(".")[-1])
        if argument == "-jar":
            return _plain(Path(next(rest, "")).stem)
        if argument in _LOADS:
            next(rest, "")
        elif argument.startswith("-"):
            after_option = True
        elif argument == "run" and interpreter in ("deno", "bun"):
            continue
        elif not after_option or _SCRIPT.fullmatch(argument):
            return _script(argument)
        else:
            after_option = False
    return ""


def _of_shell(command: Sequence[str], nested: int) -> str:
    """The script that a shell runs, or the first program of its `-c`."""
    after_option = False
    for at, argument in enumerate(command[1:], 1):
        if argument.startswith(("-", "+")):
            if re.fullmatch("-[a-zA-Z]*c[a-zA-Z]*", argument):
                texts = [each for each in command[at + 1 :] if not each.startswith(("-", "+"))]
                return _of_code(texts[0], nested) if texts and nested < NESTED_LIMIT else ""
            after_option = True
        elif not after_option or _SCRIPT.fullmatch(argument):
            return _script(argument)
        else:
            after_option = False
    return ""


def _of_code(code: str, nested: int) -> str:
    for words in _commands(code):
        while words and (_ASSIGNMENT.match(words[0]) or _LEADS.fullmatch(words[0])):
            words = words[1:]
        if words and not _PREPARES.fullmatch(words[0]) and _PLAIN.fullmatch(Path(words[0]).name):
            return name_of(words, nested + 1)
    return ""


def _commands(code: str) -> Iterator[list[str]]:
    """The simple commands of a shell's text, as far as it can be read."""
    lexer = shlex.shlex(code, posix=True, punctuation_chars=True)
    words: list[str] = []
    try:
        for word in lexer:
            if _OPERATOR.fullmatch(word):
                yield words
                words = []
            else:
                words.append(word)
    except ValueError:  # quotes that do not end
        return
    yield words


def _script(argument: str) -> str:
    """The name of a script; "" where it is none, but an assignment, say, or a URL."""
    return "" if "=" in argument or "://" in argument else _plain(Path(argument).stem)


def _plain(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else ""
