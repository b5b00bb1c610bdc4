# SPDX-License-Identifier: Apache-2.0
"""The answer to a search."""

from collections.abc import Iterable, Iterator
from itertools import chain

from blemish.v1.inspection_pb2 import Inspection
from blemish.v1.search_pb2 import Hit, SearchResponse


class Found:
    """What a search found. Iterating over it is iterating over ``hits``."""

    def __init__(self, answers: Iterator[SearchResponse]) -> None:
        """Wait for the first answer; the hits stay to be read."""
        first = next(answers, None)
        is_query = first is not None and first.WhichOneof("event") == "query"
        self.query: Inspection | None = first.query if first is not None and is_query else None
        """What the index's model says of the query image; None where the query was none."""
        self.next_page_token = ""
        """Where the next page begins, once the hits are read; empty if there is none."""
        self.unseen = 0
        """Candidates of a search by a part that there was no time to look at, once the hits are read."""
        rest = answers if is_query or first is None else chain([first], answers)
        self.hits: Iterator[Hit] = self._hits(rest)
        """Best first, as they arrive; can be read once."""

    def __iter__(self) -> Iterator[Hit]:
        return self.hits

    def _hits(self, answers: Iterable[SearchResponse]) -> Iterator[Hit]:
        for answer in answers:
            match answer.WhichOneof("event"):
                case "page":
                    self.next_page_token = answer.page.next_page_token
                    self.unseen = answer.page.unseen
                case "hits":
                    yield from answer.hits.hits
                case "hit":  # from a server that packs none
                    yield answer.hit
