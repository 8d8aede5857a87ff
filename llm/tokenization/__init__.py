"""Tokenizers, under their documented paths."""
