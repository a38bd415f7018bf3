"""Training models: settings, schedules, optimizers, callbacks, and the loop."""
