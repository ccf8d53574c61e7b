"""Makes the README the first page of the site, and names of pages and objects in texts links."""

from __future__ import annotations

import re
from typing import Any

CROSS_REFERENCE = re.compile(r":(?:func|class|mod|meth|data|attr):\s*<code>~?([\w.]+)</code>")


def on_page_markdown(markdown: str, page: Any, files: Any, **_: Any) -> str:
    """Return the text of a page, for mkdocs."""
    if page.file.src_uri == "index.md":
        with open("README.md", encoding="utf-8") as file:
            markdown = re.sub(r"(?<=\]\()docs/", "", file.read())
    known = {file.src_uri for file in files.documentation_pages()}

    def link(match: re.Match[str]) -> str:
        name = match[1]
        return f"[{name.replace('_', ' ')}]({name}.md)" if f"{name}.md" in known else match[0]

    return re.sub(r"`docs/(\w+)\.md`", link, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Return a page whose docstrings refer to others by their names, for mkdocs."""
    return CROSS_REFERENCE.sub(r"<code>\1</code>", html)
