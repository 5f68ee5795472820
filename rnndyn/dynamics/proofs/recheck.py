"""What an independent program says of a certificate."""

from rnndyn.results import Result


class Recheck(Result):
    """What a second program found when it evaluated a certificate again.

    The program shares nothing with the proof but its theorem and the numbers of the certificate. What it accepts is
    true; it may refuse what is true where the claims were proved with less to spare than its own rounding takes.

    **Fields:**

    - `accepted`: whether every inequality of the certificate was shown again.
    - `failures`: the inequalities that were not, in words and with their numbers; empty where it is accepted.
    """

    accepted: bool
    failures: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The first inequality that was not shown; empty where all were."""
        return self.failures[0] if self.failures else ""

    def table(self) -> str:
        name = type(self).__name__
        return f"{name}: accepted" if self.accepted else f"{name}: refused\n  " + "\n  ".join(self.failures)
