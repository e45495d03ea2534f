"""Drawing: HTML blocks, SVG charts and their axes."""
