"""Recurrent cells, one family per file."""
