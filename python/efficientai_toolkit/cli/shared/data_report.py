"""Text reports of data statistics."""

from collections.abc import Mapping, Sequence
from textwrap import indent
from typing import Any

from efficientai_toolkit.cli.output import format_pairs, get_width

_BAR = 40
"""Maximum length of a bar in characters."""

_SHOWN = 400
"""Maximum length of a part of a row in characters."""


def summarize(report: Mapping[str, Mapping[str, Any]]) -> str:
    """Summarize rows and tokens of each split in one line."""
    parts: list[str] = []
    for split, numbers in report.items():
        if not numbers["rows"]:
            continue
        part = f"{split} {_rows(numbers)} rows, {numbers['tokens']:,} tokens, longest {numbers['longest']:,}"
        if numbers["truncated"]:
            part += f", {numbers['truncated']:,} truncated"
        if numbers["dropped"]:
            part += f", {numbers['dropped']:,} dropped without target tokens"
        parts.append(part)
    return "; ".join(parts)


def format_details(report: Mapping[str, Mapping[str, Any]]) -> str:
    """Format a table and a histogram of lengths for each split."""
    return "\n\n".join(_split(name, numbers) for name, numbers in report.items() if numbers["rows"])


def _split(name: str, numbers: Mapping[str, Any]) -> str:
    lengths = numbers["lengths"]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in numbers["kinds"].items())
    learned = numbers["trained_tokens"] / max(numbers["kept_tokens"], 1)
    rows = [
        (
            "rows",
            f"{_rows(numbers)} ({kinds}), {numbers['duplicates']:,} duplicates, "
            f"{numbers['near_duplicates']:,} near-duplicates",
        ),
        (
            "tokens per row",
            f"min {lengths['min']:,}, median {lengths['median']:,}, mean {lengths['mean']:,.1f}, "
            f"95th percentile {lengths['p95']:,}, max {lengths['max']:,}",
        ),
        ("truncated", f"{numbers['truncated']:,} rows; {numbers['dropped']:,} dropped"),
        (
            "target tokens",
            f"{numbers['trained_tokens']:,} of {numbers['kept_tokens']:,} tokens ({learned:.1%})",
        ),
        *_left_out(numbers),
        ("distinct tokens", f"{numbers['vocabulary']:,}, {numbers['entropy']:.2f} bits per token"),
        ("compressed", f"{numbers['text_bytes']:,} bytes of text to {numbers['compressed_bytes']:,}"),
        _answers(pairs) if (pairs := numbers.get("pairs")) else _packing(numbers),
    ]
    table = format_pairs([(f"  {key}", text) for key, text in rows])
    return f"{name}\n{table}\n{_histogram(numbers['histogram'])}\n{_example(numbers['example'])}"


def _example(parts: Sequence[Mapping[str, Any]]) -> str:
    """Show a row with its target tokens in brackets."""
    shown = "".join(
        f"⟦{_shorten(part['text'])}⟧" if part["learned"] else _shorten(part["text"]) for part in parts
    )
    return "  first row, target tokens in ⟦ ⟧\n" + indent(shown, "    ", lambda _: True)


def _shorten(text: str) -> str:
    if len(text) <= _SHOWN:
        return text
    return f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"


def _rows(numbers: Mapping[str, Any]) -> str:
    drawn = f" of {every:,}" if (every := numbers.get("sampled_from")) else ""
    return f"{numbers['rows']:,}{drawn}"


def _left_out(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say which tokens could be targets and are not."""
    reasons: list[str] = []
    if numbers["lost_targets"]:
        reasons.append(f"{numbers['lost_targets']:,} tokens of truncated or dropped rows")
    if numbers["unmarked_turns"]:
        turns = f"{numbers['unmarked_turns']:,} turns"
        reasons.append(f"{turns} that the chat template does not mark with {{% generation %}}")
    return [("not in the loss", "; ".join(reasons))] if reasons else []


def _packing(numbers: Mapping[str, Any]) -> tuple[str, str]:
    filled = f"{numbers['packed_rows']:,} rows, {numbers['packing_efficiency']:.1%} filled"
    return ("with packing", filled)


def _answers(pairs: Mapping[str, Any]) -> tuple[str, str]:
    chosen, rejected = pairs["chosen"], pairs["rejected"]
    return (
        "tokens per answer",
        f"chosen {chosen['min']:,} to {chosen['max']:,}, mean {chosen['mean']:,.1f}; rejected "
        f"{rejected['min']:,} to {rejected['max']:,}, mean {rejected['mean']:,.1f}; chosen is longer in "
        f"{pairs['chosen_longer']:.1%}",
    )


def _histogram(bars: list[dict[str, int]]) -> str:
    labels = [
        f"{bar['from']:,}" if bar["from"] == bar["to"] else f"{bar['from']:,}-{bar['to']:,}" for bar in bars
    ]
    margin = max(len(label) for label in labels)
    most = max(bar["rows"] for bar in bars)
    room = min(_BAR, max(get_width() - margin - 16, 8))
    lines = ["  rows by tokens"]
    for label, bar in zip(labels, bars, strict=True):
        # A bar that is not empty is seen.
        drawn = "█" * max(round(bar["rows"] / most * room), bool(bar["rows"]))
        lines.append(f"    {label:>{margin}}  {drawn}{' ' if drawn else ''}{bar['rows']:,}")
    return "\n".join(lines)
