"""Commands of ``multimodal-clip-finetuning``."""
