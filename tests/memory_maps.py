"""How many memory maps this process holds; the programs that it has compiled hold most of them."""


def too_many() -> bool:
    """A process may have 65 530 of them: beyond, it crashes. A quarter of them leaves room for the file of tests that
    needs most; below, files share what they have compiled."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            return sum(1 for _ in maps) > 16_000
    except OSError:  # not Linux
        return True
