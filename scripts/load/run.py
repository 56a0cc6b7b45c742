"""What all parts of a run share."""

from dataclasses import dataclass
from pathlib import Path

from load.attack import Vegeta
from load.gateway import Gateway


@dataclass(frozen=True)
class Run:
    """Programs, the model, and how long overload lasts."""

    program: Path
    model: Path
    vegeta: Vegeta
    overload_seconds: float

    def gateway(self, name: str) -> Gateway:
        """A gateway of its own; its log is NAME.log."""
        return Gateway(self.program, self.model, self.vegeta.folder / f"{name}.log")
