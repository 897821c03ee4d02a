"""The algorithms of Self-Rewarding and Meta-Rewarding as pure functions: no files, no models, no clock."""
