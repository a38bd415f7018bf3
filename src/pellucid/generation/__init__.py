"""Writing text with a model: settings, logits processors, stopping criteria, and the loops that decode."""
