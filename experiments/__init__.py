"""Research scripts: one study per file, each a `Config`, a computation, a table and a figure."""
