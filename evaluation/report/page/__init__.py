"""The HTML report: what it holds, and how it is drawn."""
