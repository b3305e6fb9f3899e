"""Passwords in addresses: files that are passed around show none of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
"""What stands for a password, as in SQLAlchemy's own texts."""
_ADDRESS = re.compile(
    r"(://[^\s:/?#]*:)"  # before a password stands the user, whose name may be empty and may have an @
    r"(?:(?!://)[^@\s])+"  # SQLAlchemy takes all up to the @ for the password, slashes too
    r"(?:@[^\s/@?#,]*(?=@))*"  # other programs all up to the last @ before the path
    r"@"
)
"""What looks like a password is one, ``http://host:80/map@v2`` too: rather too much is hidden than too little."""


def hide_passwords(value: Any) -> Any:
    """Replace the password in each ``scheme://user:password@…`` by ``***``, in a text or in all texts of a structure.

    Args:
        value: A text, or mappings, lists and tuples of texts and other things, at any depth.

    Returns:
        The same with the passwords replaced; everything else, keys too, is returned as it is.
    """
    if isinstance(value, str):
        return _ADDRESS.sub(rf"\1{HIDDEN}@", value)
    if isinstance(value, Mapping):
        return {key: hide_passwords(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        inner = map(hide_passwords, value)
        return list(inner) if isinstance(value, list) else tuple(inner)
    return value
