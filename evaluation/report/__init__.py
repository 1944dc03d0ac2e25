"""Tables, figures and JSON records of results."""
