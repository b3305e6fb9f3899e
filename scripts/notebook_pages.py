"""A hook of mkdocs (mkdocs.yml names it): every notebook in docs/ becomes a page, with what it printed and drew."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page beside each notebook; the notebook stays, for download."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text = page_of(Path(str(notebook.abs_src_path)))
        files.append(File.generated(config, notebook.src_uri.removesuffix(".ipynb") + ".md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to notebooks, which a forge shows by itself, lead to their pages here."""
    return markdown.replace(".ipynb)", ".md)")


def page_of(notebook: Path) -> str:
    """Return a notebook as Markdown, with a link to the file itself below its title."""
    cells = list(nbformat.read(notebook, as_version=4).cells)  # type: ignore[no-untyped-call]
    title, _, rest = cells[0].source.partition("\n")
    link = f'<a href="{notebook.name}" download>{notebook.name}</a>'
    parts = [title, f"This page shows a notebook; the file to run: {link}", rest]
    return "\n\n".join([*parts, *(part for cell in cells[1:] for part in _parts(cell))]) + "\n"


def _parts(cell: Any) -> Iterator[str]:
    """A cell's text or code, and below the code what came of it."""
    if cell.cell_type == "markdown":
        yield cell.source
        return
    yield _fenced(cell.source, "python")
    printed = "".join(_text(output) for output in cell.outputs)
    if printed:
        yield _fenced(printed, "text")
    for output in cell.outputs:
        if picture := output.get("data", {}).get("image/jpeg"):
            yield f"![What the code above draws](data:image/jpeg;base64,{picture.strip()})"


def _text(output: Any) -> str:
    """What an output says in letters; a figure's own name is none of it."""
    said: str = output.get("text", "") or output.get("data", {}).get("text/plain", "")
    return "" if said.startswith("<Figure") else said


def _fenced(text: str, language: str) -> str:
    """Code or output as a block, in a fence that is longer than any inside."""
    fence = "`" * max(3, *(len(found) + 1 for found in re.findall(r"`{3,}", text)), 3)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
