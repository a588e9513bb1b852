"""One file for each LoRA variant: LoRA, DoRA, PiSSA, (IA)³, VeRA; and the rules for scales."""
