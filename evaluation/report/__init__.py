"""Records, tables and figures of results."""
