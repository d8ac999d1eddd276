"""Reports over evaluation records: HTML, Markdown and LaTeX."""
