"""Put adapters into a model: which modules match, which adapters are active, which are trained."""
