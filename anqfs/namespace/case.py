"""When two names differ only in case, as SMB clients mean it. Pure; called by `directories` and `snapshots`.

The name hash groups by Unicode's full case folding and composition, under which "STRASSE" is "straße" and an e with an accent is an e
followed by one. Over SMB those are different names, and taking one file for another would overwrite it: so what the hash finds is compared
again, letter by letter.
"""

from __future__ import annotations


def caseless(name: bytes) -> bytes | str:
    """Return what names that differ only in case have in common: each letter as the one capital letter that it has.

    A letter with no single capital stands for itself, and ASCII letters are never the same as others. In what is not UTF-8 only ASCII
    letters have case.
    """
    if name.isascii():
        return name.lower()
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return name.lower()
    return "".join(capital if len(capital := letter.upper()) == 1 and letter.isascii() == capital.isascii() else letter for letter in text)
