"""Experiments on images: what is trained, how, and what is kept of it."""
