"""Other sets of bags that the model of every fold of a cross-validation predicts."""
