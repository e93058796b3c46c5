"""Disturbances of a reverse trajectory, as hooks of `sampling.Hooks` [T 3.4]."""
