"""Contents and drawing of the HTML report."""
