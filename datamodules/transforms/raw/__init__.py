"""Images as the sensor of a camera records them, in the dark."""
