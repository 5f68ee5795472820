"""What does this network do, and how sure is that? Every analysis in one report: text, figure, page, command."""
