"""Reporting: a summary as an HTML page, a table and a montage."""

from engine.reporting.figures import draw_attacks, montage
from engine.reporting.page import render_page
from engine.reporting.paper_table import paper_markdown
from engine.reporting.tables import (
    TableRow,
    markdown_table,
    render_terminal,
    several_attacks,
    table_rows,
)

__all__ = [
    "TableRow",
    "draw_attacks",
    "markdown_table",
    "montage",
    "paper_markdown",
    "render_page",
    "render_terminal",
    "several_attacks",
    "table_rows",
]
