"""Floor 1: recorded logs, read into tables of checked columns."""
