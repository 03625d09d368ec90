"""Parse XML that is not to be trusted: no document types, no entities, bounded depth and size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from raceline.core.errors import BadModelError

_MOST_DEPTH = 200


@dataclass(slots=True)
class Element:
    """One element with the text directly inside it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, tag: str) -> Element | None:
        """The first child of that name."""
        return next((child for child in self.children if child.tag == tag), None)

    def all(self, *path: str) -> Iterator[Element]:
        """The elements that a path of names leads to, in order; only the last name may occur often."""
        element: Element | None = self
        for tag in path[:-1]:
            element = element.find(tag) if element is not None else None
        for child in element.children if element is not None else ():
            if child.tag == path[-1]:
                yield child


class _Parser:
    """Grows the tree as expat reads."""

    def __init__(self, source: str, most_elements: int) -> None:
        self._source, self._most, self._count = source, most_elements, 0
        self._open = [Element("", {})]
        self._texts: list[list[str]] = [[]]

    def run(self, data: bytes) -> Element:
        parser = expat.ParserCreate("UTF-8")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        try:
            parser.Parse(data, True)
        except (expat.ExpatError, UnicodeError) as error:
            raise BadModelError(
                f"{self._source} is no whole XML", str(error), "Export or download it again."
            ) from error
        return self._open[0].children[0]

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > self._most:
            raise BadModelError(
                f"{self._source} is too large", f"it has more than the limit of {self._most} elements"
            )
        if len(self._open) > _MOST_DEPTH:
            raise BadModelError(f"{self._source} is refused", f"elements lie more than {_MOST_DEPTH} deep")
        element = Element(tag, attributes)
        self._open[-1].children.append(element)
        self._open.append(element)
        self._texts.append([])

    def _end(self, _: str) -> None:
        self._open.pop().text = "".join(self._texts.pop())

    def _characters(self, text: str) -> None:
        if not text.isspace():
            self._texts[-1].append(text)

    def _refuse(self, *_: object) -> None:
        raise BadModelError(f"{self._source} is refused", "it declares a document type or entities")


def parse(data: bytes, source: str, most_elements: int) -> Element:
    """The root element.

    Args:
        data: the file.
        source: its name, for messages.
        most_elements: more are refused.

    Raises:
        BadModelError: it is no XML, or declares what only hostile files do, or is too large or too deep.
    """
    return _Parser(source, most_elements).run(data)
