"""Particle picking: reference preparation, template matching, evaluation of picks."""
