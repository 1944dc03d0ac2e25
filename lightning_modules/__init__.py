"""Training protocols as LightningModules."""
