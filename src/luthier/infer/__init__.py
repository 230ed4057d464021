"""Answering prompts and scoring sequences with a model."""
