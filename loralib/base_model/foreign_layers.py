"""One message for layers that bitsandbytes made (`BitsAndBytesConfig`): LoRA here does not adapt them, and another way does."""

from torch import nn


def refuse_bitsandbytes(model: nn.Module) -> None:
    """ValueError where a layer of the model is of bitsandbytes; it names the function that reads such a folder."""
    for path, module in model.named_modules():
        if type(module).__module__.partition(".")[0] == "bitsandbytes":
            raise ValueError(
                f"{path} is a {type(module).__name__} of bitsandbytes, which nothing here can adapt. Load the folder with "
                "loralib.load_4bit(folder, model_class) and without BitsAndBytesConfig: it quantises what is not in 4 bits, and "
                "reads what bitsandbytes has saved in 4 bits"
            )
