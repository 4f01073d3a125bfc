"""Subtomogram averaging: extraction, initial model, refinement, reconstruction, postprocessing."""
