"""What a demonstration claims, and whether it was so."""

from dataclasses import dataclass, field

from rich.console import Console

from dragoman.cli._console import clean, table


@dataclass(frozen=True, slots=True)
class Check:
    """One claim."""

    section: str
    claim: str
    held: bool
    seen: str


@dataclass(slots=True)
class Checks:
    """All claims so far. `section` is where new ones belong."""

    section: str = ""
    made: list[Check] = field(default_factory=list)

    def that(self, claim: str, held: object, seen: object = "") -> None:
        """Notes a claim: it holds when `held` is true. `seen` is the evidence."""
        self.made.append(Check(self.section, claim, bool(held), str(seen)))

    @property
    def passed(self) -> bool:
        """Whether there are claims and all of them hold."""
        return bool(self.made) and all(check.held for check in self.made)

    def show(self, console: Console) -> None:
        """A table of all claims."""
        shown = table("", "", "section", "check", "seen")
        for check in self.made:
            shown.add_row(
                "✓" if check.held else "✗",
                check.section,
                check.claim,
                clean(check.seen),
                style=None if check.held else "bold red",
            )
        console.print(shown)
        failed = sum(not check.held for check in self.made)
        if self.passed:
            console.print(f"all {len(self.made)} checks hold", style="bold green")
        else:
            console.print(f"{failed} of {len(self.made)} checks failed", style="bold red")
