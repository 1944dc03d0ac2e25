"""Samplers whose order depends on seed and epoch, sharded over processes and resumable."""
