"""Errors as one line and an exit code."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

DONE, NOT_MET, BAD_INPUT, INCONCLUSIVE, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 70, 130
EXIT_CODES = {"done": DONE, "criteria_not_met": NOT_MET, "inconclusive": INCONCLUSIVE}


def explain(error: Exception) -> tuple[str, int]:
    """Return one line about `error` and the exit code: 2 for what the user can put right, 70 for a fault of ours."""
    from pydantic import ValidationError

    from isthmus._check import InputError

    if isinstance(error, ValidationError):
        return _one_line(_validation(error)), BAD_INPUT
    if isinstance(error, InputError):
        return _one_line(str(error)), BAD_INPUT
    if isinstance(error, OSError):
        place = f" {str(error.filename)!r}" if error.filename else ""
        return _one_line(
            f"`files` should be there and fit on the disk. Found: {error.strerror or error}{place}."
        ), BAD_INPUT
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "`memory` should hold the work. Found too little of it. Lower --batch-size, --n or --width.", BAD_INPUT
    text = _one_line(f"{type(error).__name__}: {error}")
    return f"internal error, please report it ({text}). ISTHMUS_DEBUG=1 shows where.", INTERNAL


def debugging() -> bool:
    """Return whether tracebacks are wanted."""
    return os.environ.get("ISTHMUS_DEBUG", "") not in ("", "0")


def usage(error: Exception) -> tuple[str, int] | None:
    """Return one line for an error of the command-line parser, None for any other error.

    By its attributes, because the parser's own classes live in different packages in different versions.
    """
    shown, code = getattr(error, "format_message", None), getattr(error, "exit_code", None)
    if not callable(shown) or not isinstance(code, int):
        return None
    text = _one_line(str(shown()).replace("?.", "?"))
    context = getattr(error, "ctx", None)
    path = str(getattr(context, "command_path", "") or "isthmus")
    return f"{text}{'' if text.endswith(('.', '?')) else '.'} See {path} --help.", BAD_INPUT


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _validation(error: "ValidationError") -> str:
    """Return the first fault that pydantic found in the template of all errors, with the nearest name for an unknown one."""
    from isthmus._check import nearest

    first = error.errors()[0]
    parts = [str(part) for part in first["loc"]]
    name = parts[-1] if parts else error.title
    if first["type"] == "extra_forbidden":
        known = _fields(error.title, parts[:-1])
        return f"`{name}` should be one of the settings {', '.join(sorted(known))}. Found no such setting.{nearest(name, known)}"
    message = first["msg"]
    wanted = message.removeprefix("Input should ") if message.startswith("Input should ") else f"be valid ({message})"
    choices = (
        [word.strip("'") for word in wanted.replace(" or ", ", ").split(", ")]
        if first["type"] == "literal_error"
        else []
    )
    near = nearest(str(first["input"]), [choice.removeprefix("be '") for choice in choices]) if choices else ""
    return f"`{name}` should {wanted}. Found {first['input']!r}.{near}"


def _fields(title: str, path: list[str]) -> list[str]:
    """Return the names of the fields of the model at `path` of the recipe called `title`."""
    from isthmus.training.plan import Plan

    if title == "Plan" or path == ["plan"]:
        return list(Plan.model_fields)
    return []
