"""One multitask run: settings, steps, trainer, report."""
