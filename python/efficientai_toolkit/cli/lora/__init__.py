"""Commands of ``lora-finetuning-mlx``, one file each."""
