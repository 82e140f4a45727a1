"""A small, safe subset of Markdown: everything is escaped first, then a few marks become elements."""

import re

from markupsafe import Markup, escape

_INLINE = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|\*\*(?P<strong>\S(?:.*?\S)?)\*\*"
    r"|\*(?P<em>[^\s*](?:[^*]*[^\s*])?)\*"
    r"|\[(?P<text>[^\]]+)\]\((?P<url>https?://[^\s()]+|#[\w-]+)\)"
    r"|~(?P<sub>[^\s~]+)~"
    r"|\^(?P<sup>[^\s^]+)\^"
)


def inline(text: str) -> Markup:
    """One line of prose without its paragraph."""
    return Markup(_marks(str(escape(text))))


def paragraphs(text: str) -> Markup:
    """Blank lines separate paragraphs; lines that begin with `- ` form a list."""
    blocks = [block.strip() for block in re.split(r"\n\s*\n", text.strip())]
    return Markup("\n").join(_block(block) for block in blocks if block)


def _block(block: str) -> Markup:
    if block.startswith("- "):
        items = re.split(r"\n\s*- ", block[2:])
        return Markup("<ul>{}</ul>").format(
            Markup("").join(Markup("<li>{}</li>").format(inline(item)) for item in items)
        )
    return Markup("<p>{}</p>").format(inline(block))


def _marks(escaped: str) -> str:
    return _INLINE.sub(_element, escaped.replace(" %", "\u00a0%"))


def _element(match: re.Match[str]) -> str:
    kind = str(match.lastgroup)
    if kind == "code":
        return f"<code>{match['code']}</code>"
    if kind == "url":
        return f'<a href="{match["url"]}">{_marks(match["text"])}</a>'
    return f"<{kind}>{_marks(match[kind])}</{kind}>"
