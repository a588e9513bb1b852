"""How the losses or gradients of several tasks are combined."""
