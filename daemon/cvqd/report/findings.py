"""What a report found: the value that text, JSON and the page are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cvqd.report.scale import duration, plural

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from cvqd.report.anomaly import Anomalies
    from cvqd.report.blackout import Distribution
    from cvqd.report.move import Move
    from cvqd.report.reader import LogFile
    from cvqd.report.rehearsal import Rehearsal
    from cvqd.report.run_log import RunLog


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything; ``verdicts`` counts all moves, ``moves`` and ``runs`` may be the latest only."""

    files: Sequence[LogFile]
    runs: Sequence[RunLog]
    moves: Sequence[Move]
    verdicts: Counter[str]
    rehearsals: Sequence[Rehearsal]
    blackouts: Distribution | None
    anomalies: Anomalies

    @property
    def events(self) -> int:
        """Lines of ours."""
        return sum(file.events for file in self.files)

    @property
    def total(self) -> int:
        """Moves in the logs."""
        return self.verdicts.total()

    @property
    def well(self) -> bool:
        """Whether nothing is odd."""
        return not self.anomalies.counts

    @property
    def verdict(self) -> str:
        """One sentence."""
        said = [plural(self.total, "move") if self.total else "no move"]
        bad = self.total - self.verdicts["well"] - self.verdicts["half"]
        if self.total:
            well = "" if self.verdicts["half"] else ", all well" if self.total > 1 else ", well"
            said[0] += f", {bad} not well" if bad else well
        if self.verdicts["half"]:
            said.append(f"{self.verdicts['half']} seen from one side only")
        if self.blackouts is not None:
            said.append(f"longest blackout {duration(self.blackouts.most)}")
        if not self.well:
            count = self.anomalies.counts.total()
            said.append(f"{count} {'anomaly' if count == 1 else 'anomalies'}")
        return "; ".join(said)
