"""The records of a fit, kept in bounded memory."""

from collections.abc import Sequence

from gradscope.records import Record

LIMIT = 2000
"""Records kept at most. At 100 layers and 15 metrics that is 12 MB."""

BEGINNING = 10
"""Records at the start that are always kept: the initialisation is judged by them."""


class History:
    """Keeps the first records, the newest, and an ever thinner choice of those between; the log keeps all."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.added = 0

    def add(self, record: Record) -> None:
        """Keep `record`; every second of the older ones goes when there are more than `LIMIT`."""
        self.added += 1
        self.records.append(record)
        if len(self.records) > LIMIT:
            self.records = (
                self.records[:BEGINNING] + self.records[BEGINNING + (len(self.records) - 1 - BEGINNING) % 2 :: 2]
            )

    def restore(self, records: Sequence[Record], added: int) -> None:
        """Go on from `records`, the choice that is left of `added` ones."""
        self.records, self.added = list(records), max(added, len(records))

    def forget_from(self, step: int) -> None:
        """Let go of what was recorded at `step` or later: training goes on before it."""
        self.records = [record for record in self.records if record.step < step]
