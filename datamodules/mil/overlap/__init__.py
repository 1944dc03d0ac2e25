"""Whether a set of bags has patients or bags of another set."""
