"""A written page as its tables and its text."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The page's tables by the title of their figure; a cell is its text and the number behind it."""

    def __init__(self, file):
        super().__init__()
        self.html = file.read_text(encoding="utf-8")
        self.tables, self.tags, self.text = [], [], ""
        self._title, self._into, self._number = "", None, None
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "figcaption":
            self._title, self._into = "", "title"
        elif tag == "span" and self._into == "title":
            self._into = None
        elif tag == "table":
            self.tables.append((self._title, []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self._into, self._number = "cell", None
            self.tables[-1][1][-1].append(("", None))
        elif tag == "data":
            self._number = float(dict(attributes)["value"])
        elif tag == "small":
            self._into = None

    def handle_endtag(self, tag):
        if tag in ("td", "th", "figcaption"):
            self._into = None

    def handle_data(self, data):
        self.text += data
        if self._into == "title":
            self._title += data
        elif self._into == "cell":
            text, number = self.tables[-1][1][-1][-1]
            self.tables[-1][1][-1][-1] = (
                text + data.strip(),
                self._number if self._number is not None else number,
            )

    def rows(self, title, *, column=None):
        """Return the lines of the tables of a figure, by their headings, as {column: (text, number)}."""
        found = {}
        for name, (head, *lines) in self.tables:
            if name == title and (column is None or column in [text for text, _ in head]):
                for line in lines:
                    found[line[0][0]] = {text: cell for (text, _), cell in zip(head, line, strict=True)}
        return found
