"""The whole loop: the project file, shipping, and the quickstart."""
