"""Translation of the names that options and values have in other tools.

They are understood but not shown by ``--help``. A command takes an alias only if it has the option that is
meant, and none of that name itself.
"""

from collections.abc import Container, Sequence

from efficientai_toolkit._base.aliases import FLAGS, OPTIONS, VALUES

_TRUTH = ("true", "false")


def translate(words: Sequence[str], known: Container[str]) -> list[str]:
    """Replace the names of other tools by those of a command.

    Parameters
    ----------
    words
        Arguments of the command.
    known
        Options of the command.
    """
    translated: list[str] = []
    implied: list[str] = []
    rest = list(words)
    while rest:
        name, equals, value = _split(rest.pop(0))
        name = _rename(name, known)
        if name not in known and name in FLAGS and FLAGS[name][0] in known:
            # Transformers writes `--bf16 True` as well.
            text = value if equals else rest.pop(0) if rest and rest[0].lower() in _TRUTH else "true"
            translated += FLAGS[name] if text.lower() == "true" else ()
            continue
        if not equals and rest and name in known and (name, rest[0]) in VALUES:
            equals, value = "=", rest.pop(0)
        if (name, value) in VALUES and name in known:
            typed = VALUES[name, value]
            translated += typed[:2]
            # Where such an option is given as well, that one counts.
            implied += typed[2:]
        else:
            translated.append(f"{name}{equals}{value}")
    return [*implied, *translated]


def _split(word: str) -> tuple[str, str, str]:
    return word.partition("=") if word.startswith("--") else (word, "", "")


def _rename(name: str, known: Container[str]) -> str:
    """Return the command's own name of an option; other words are left as they are."""
    if name in known or not name.startswith("-"):
        return name
    # Transformers separates words by underscores.
    dashed = name.replace("_", "-")
    if dashed in known or dashed in FLAGS:
        return dashed
    ours = OPTIONS.get(dashed)
    return ours if ours is not None and ours in known else name
