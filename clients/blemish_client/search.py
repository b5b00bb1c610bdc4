# SPDX-License-Identifier: Apache-2.0
"""Search results."""

from collections.abc import Iterable, Iterator
from itertools import chain

from blemish.v1.inspection_pb2 import Inspection
from blemish.v1.search_pb2 import Hit, SearchResponse


def similarity(hit: Hit) -> float:
    """Return the similarity by which hits are sorted, -1 to 1.

    Without a match, it is the similarity of the embeddings. With one, it is the mean of that similarity and
    the similarity of the place.
    """
    return (hit.similarity + hit.match.similarity) / 2 if hit.HasField("match") else hit.similarity


class SearchResults:
    """The hits of a search. Iterating over it iterates over ``hits``."""

    def __init__(self, answers: Iterator[SearchResponse]) -> None:
        """Wait for the first answer. The hits arrive as they are read."""
        first = next(answers, None)
        is_query = first is not None and first.WhichOneof("event") == "query"
        self.query: Inspection | None = first.query if first is not None and is_query else None
        """Inspection of the query image, or None if the query was not an image."""
        self.next_page_token = ""
        """Token of the next page, or empty if there is none. Set once all hits are read."""
        self.unseen = 0
        """Number of candidates that a search by region had no time for. Set once all hits are read."""
        rest = answers if is_query or first is None else chain([first], answers)
        self.hits: Iterator[Hit] = self._read_hits(rest)
        """Hits in order of similarity, the best first. Can be read once."""

    def __iter__(self) -> Iterator[Hit]:
        return self.hits

    def _read_hits(self, answers: Iterable[SearchResponse]) -> Iterator[Hit]:
        for answer in answers:
            match answer.WhichOneof("event"):
                case "page":
                    self.next_page_token = answer.page.next_page_token
                    self.unseen = answer.page.unseen
                case "hits":
                    yield from answer.hits.hits
                case "hit":  # from a server that does not pack hits
                    yield answer.hit
