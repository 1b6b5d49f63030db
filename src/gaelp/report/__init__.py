"""Floor 5: what a run did, told from its event log and nothing else: a summary, a table, one page of HTML."""
