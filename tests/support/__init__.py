"""What tests share: doubles, builders, tiny models."""
