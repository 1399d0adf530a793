"""Files that are either complete or absent: written under a temporary name, then moved."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place; nothing is left on failure.

    Raises InputError naming the file when the system refuses (no permission, disk full).
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def save_text(path: Path, text: str, errors: str = "strict") -> None:
    """Write text in UTF-8; `errors` is what `str.encode` does with characters that UTF-8 does not have."""
    content = text.encode("utf-8", errors)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def save_json(path: Path, content: Any) -> None:
    """Write readable JSON."""
    save_text(path, json.dumps(content, indent=2) + "\n")


def save_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any] | Sequence[Any]], errors: str = "strict"
) -> None:
    """Write a table with a row of column names; a row is a sequence, or a mapping whose missing cells stay empty.

    `errors` is that of `save_text`: with 'backslashreplace' a name that is not valid UTF-8 is written with escapes.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.get(column, "") for column in columns] if isinstance(row, Mapping) else row for row in rows)
    save_text(path, text.getvalue(), errors)
