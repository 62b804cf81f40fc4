"""The commands of ``lora-finetuning-mlx``, one file each."""
