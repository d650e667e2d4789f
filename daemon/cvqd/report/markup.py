"""Elements of HTML and SVG as text; everything that goes in is escaped here and nowhere else."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: object) -> Markup:
    """An element; ``class_`` is ``class``, ``_`` in a name is ``-``, an attribute of None is left out."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escape(text)}"')
    inner = join(*content)
    opening = " ".join(words)
    return Markup(f"<{opening}>{inner}</{name}>" if inner or name not in _EMPTY else f"<{opening}/>")


def join(*content: str) -> Markup:
    """Several pieces, escaped unless they are markup."""
    return Markup("".join(piece if isinstance(piece, Markup) else escape(piece) for piece in content))


_EMPTY = {"rect", "line", "circle", "path", "meta"}
