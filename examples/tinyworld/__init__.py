"""The embedded world: a small language of list instructions in which every answer has a true quality."""
