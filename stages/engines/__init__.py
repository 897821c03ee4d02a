"""Generation: one protocol, the engines behind it, and completions that survive a kill."""
