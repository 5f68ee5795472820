"""Whether two dynamics are alike."""
