"""What commands share for times, values and grades."""
