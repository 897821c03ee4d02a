"""Pairs and supervised examples for other trainers: their layouts as pure functions, and the folder with the files."""
