"""Flower's aggregation, as its strategies call it, without the network."""

from __future__ import annotations

from _job import Job, Result, main, speed_of_updates, updates


def aggregate(job: Job) -> Result:
    """Measure one rule on replies that are there already."""
    import numpy as np
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy import bulyan, fedtrimmedavg, multikrum, strategy_utils

    def record(array: np.ndarray) -> RecordDict:
        return RecordDict(
            {"arrays": ArrayRecord({"w": Array(array)}), "metrics": MetricRecord({"num-examples": 1})}
        )

    rule, f = job["rule"], job["f"]
    if rule == "streamed":
        return {"missing": "a mean that is streamed"}
    records = [record(array) for array in updates(job)]
    key = "num-examples"

    def layers() -> list[np.ndarray]:
        return [found["arrays"]["w"].numpy() for found in records]

    def run_bulyan() -> object:
        chosen = multikrum.select_multikrum(records, f, len(records) - 2 * f)
        arrays = [found["arrays"].to_numpy_ndarrays() for found in chosen]
        middle = [np.median(layer, axis=0) for layer in zip(*arrays, strict=True)]
        return bulyan.aggregate_n_closest_weights(middle, arrays, len(records) - 4 * f)

    def run_krum() -> object:
        chosen = multikrum.select_multikrum(records, f, len(records) - f - 2)
        return strategy_utils.aggregate_arrayrecords(chosen, key)

    calls = {
        "fedavg": lambda: strategy_utils.aggregate_arrayrecords(records, key),
        "median": lambda: np.median(np.stack(layers()), axis=0),
        "trimmed_mean": lambda: fedtrimmedavg.trim_mean(np.stack(layers()), f / len(records)),
        "multi_krum": run_krum,
        "bulyan": run_bulyan,
    }
    return speed_of_updates(job, calls[rule])


main({"aggregate": aggregate}, ("flwr", "numpy"))
