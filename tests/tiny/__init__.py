"""Tiny random models and data that many tests share."""
