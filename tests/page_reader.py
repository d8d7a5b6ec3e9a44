"""Reads the pages of a report as a browser would, for the tests of every page."""

from html.parser import HTMLParser

from plotly.offline import get_plotlyjs

VOID = {"meta", "br", "img", "hr", "link", "input", "wbr"}


class Reader(HTMLParser):
    """Collects elements, text and ids, and fails where a tag is not closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


def own(code: str) -> str:
    """The page without plotly's own script, which is there exactly once."""
    assert code.count(get_plotlyjs()) == 1
    return code.replace(get_plotlyjs(), "")


def read(code: str) -> Reader:
    reader = Reader()
    reader.feed(own(code))
    reader.close()
    assert reader.open == []
    return reader
