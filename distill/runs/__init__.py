"""One distillation run: settings, trainer, measurements, report."""
