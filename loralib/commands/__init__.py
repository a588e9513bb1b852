"""`python -m loralib merge` and `quantize`."""
