"""What is told of the cost of tests, at the end of a run and in a table, adds up."""

import compilation_counts
import cpu_seconds


def test_a_table_has_a_line_for_each_test(tmp_path):
    account, table = cpu_seconds.Account(), tmp_path / "costs.txt"
    for test, seconds, programs in (("a.py::one", 1.25, 3), ("b.py::two[x y]", 12.0, 0)):
        account.add(test, seconds)
        account.write(table, test, programs)
    rows = [line.split(maxsplit=2) for line in table.read_text().splitlines()]
    assert rows == [["1.250", "3", "a.py::one"], ["12.000", "0", "b.py::two[x y]"]]
    first, dearest, *_, above = account.lines(limit=900, at_most=10)
    assert first.startswith("13 CPU s in 2 tests")
    assert dearest.split() == ["12.0", "!", "b.py::two[x", "y]"]
    assert above.startswith("1 above 10 CPU s")


def test_programs_of_several_processes_are_added_by_name():
    names = [{"jit(f)": (2, 0.5), "jit(g)": (1, 3.0)}, {"jit(f)": (3, 4.0)}, {}]
    assert [line.split() for line in compilation_counts.dearest(names)] == [
        ["4.5", "s", "5", "times", "jit(f)"],
        ["3.0", "s", "1", "times", "jit(g)"],
    ]
    assert len(compilation_counts.dearest(names, shown=1)) == 1
