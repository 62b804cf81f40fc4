"""Track two short runs, and compare them.

uv run python examples/tracking.py
"""

import efficientai_toolkit as eat


def main() -> None:
    folders: list[str] = []
    for lr in (1e-3, 5e-3):
        config = eat.lora.TrainingConfig.demo(iters=20, lr=lr)
        # Add "tensorboard", "mlflow" or "wandb" where their extras are installed.
        trainer = eat.lora.MLXTrainer(config, callback=eat.trackers.Tracker("jsonl", "csv"))
        folders.append(str(trainer.train().adapter_path))
    first, second = (eat.trackers.find_run(folder) for folder in folders)
    comparison = eat.trackers.compare(first, second)
    for name, values in comparison.settings.items():
        print(name, *values)
    print("loss", *comparison.metrics["loss_after"])
    print("curve", eat.trackers.read_history(second).curves["train/loss"][-3:])


if __name__ == "__main__":
    main()
