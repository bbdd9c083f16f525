"""Tables as text, Markdown, LaTeX, HTML and on a terminal."""
