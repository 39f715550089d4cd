"""The report: what a project learned, searched and shipped, as one page and as pictures."""
