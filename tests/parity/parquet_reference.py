"""Makes ``fixtures/parquet``: the same rows as jsonl and as Parquet files that pyarrow writes.

``uv run --no-project --with pyarrow python tests/parity/parquet_reference.py``
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent / "fixtures" / "parquet"

MESSAGES = [
    [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
    ],
    [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "weather", "days": 3, "exact": True}]},
        {"role": "tool", "content": "9.5 °C"},
        {"role": "assistant", "content": "Cold."},
    ],
]
QUESTIONS = [{"question": f"How many is {i}?", "answer": "é" * (i % 5), "score": i / 2} for i in range(300)]


def main() -> None:
    """Write chats without and with compression, and plain strings in several row groups."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    chats = pa.table({"messages": MESSAGES, "id": [1, 2]})
    for compression in ("none", "snappy", "zstd"):
        pq.write_table(chats, FOLDER / f"chat_{compression}.parquet", compression=compression)
    pq.write_table(pa.Table.from_pylist(QUESTIONS), FOLDER / "questions.parquet", row_group_size=128)
    for name, rows in (("chat", [{"messages": messages} for messages in MESSAGES]), ("questions", QUESTIONS)):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (FOLDER / "versions.json").write_text(json.dumps({"pyarrow": pa.__version__}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
