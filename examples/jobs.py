"""Train in the background, follow, and evaluate the adapter with a second job.

uv run python examples/jobs.py
"""

import tempfile

import efficientai_toolkit as eat

# Your own: a folder with your data; paths in settings are relative to it.
jobs = eat.jobs.Jobs(tempfile.mkdtemp())
settings = {"iters": 20, "max_seq_length": 128}

# Or leave the runner out, and start `efficientai-toolkit serve --workspace FOLDER`.
with eat.jobs.Runner(jobs):
    training = jobs.submit("train", settings)
    for event in jobs.events(training.id, follow=True):
        if event.data["event"] == "step":
            print(f"step {event.data['step']}: loss {event.data['loss']:.3f}")

    check = jobs.submit("evaluate", {"adapter_path": training.output, "limit": 50})
    for _ in jobs.events(check.id, follow=True):
        pass

result = jobs.get(check.id).result
print(f"perplexity {result['metrics']['perplexity']:.2f}" if result else jobs.get(check.id).error)
