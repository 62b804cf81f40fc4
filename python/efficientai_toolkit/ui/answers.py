"""Answers of the server's engine for the chat: the model alone, and with a blend of adapters."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.server.conversation import Conversation, begin
from efficientai_toolkit.server.dialects.base import Reasoning, Text
from efficientai_toolkit.server.errors import ApiError
from efficientai_toolkit.server.generation import Generation, hold
from efficientai_toolkit.server.served import Lease
from efficientai_toolkit.ui.workbench import Adapter, Workbench

Messages = list[dict[str, Any]]
Blend = Sequence[tuple[Adapter, float]]
"""Adapters with their weights."""

_LARGEST_SEED = 2**53
"""Above it, browsers round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A question with the settings of the answer."""

    model: str
    prompt: str
    settings: dict[str, Any]
    max_tokens: int
    system: str

    @classmethod
    def from_form(cls, model: str, prompt: str, values: Sequence[Any]) -> "Ask":
        """Return what the fields of the chat say."""
        temperature, top_p, top_k, penalty, tokens, seed, system = values
        settings: dict[str, Any] = {
            "temperature": float(temperature or 0),
            "top_p": float(top_p or 1),
            "repetition_penalty": float(penalty or 1),
            "seed": min(max(int(seed or 0), 0), _LARGEST_SEED),
        }
        if top_k:
            settings["top_k"] = int(top_k)
        return cls(
            model=model,
            prompt=prompt,
            settings=settings,
            max_tokens=int(tokens or 128),
            system=str(system or ""),
        )


async def answer_both(
    bench: Workbench, ask: Ask, base: Messages, adapted: Messages, blend: Blend
) -> AsyncIterator[tuple[Messages, Messages]]:
    """Yield both conversations as they grow; without adapters the second one stays as it is."""
    asked = {"role": "user", "content": ask.prompt}
    sides = [[*base, asked], *([[*adapted, asked]] if blend else [])]
    blends: list[Blend] = [[], blend]
    pieces: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()

    async def pump(side: int) -> None:
        try:
            async for text in _stream(bench, ask, sides[side], blends[side]):
                pieces.put_nowait((side, text))
        except (ApiError, ToolkitError) as error:
            pieces.put_nowait((side, f"⚠ {' '.join(str(error).split())}"))
        finally:
            pieces.put_nowait((side, None))

    told = [""] * len(sides)
    tasks = [asyncio.create_task(pump(side)) for side in range(len(sides))]
    try:
        running = len(tasks)
        while running:
            side, text = await pieces.get()
            while True:
                running -= text is None
                told[side] += text or ""
                if pieces.empty():
                    break
                side, text = pieces.get_nowait()
            shown = [
                [*messages, {"role": "assistant", "content": answer or "…"}]
                for messages, answer in zip(sides, told, strict=True)
            ]
            yield shown[0], shown[1] if blend else adapted
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _stream(bench: Workbench, ask: Ask, messages: Messages, blend: Blend) -> AsyncIterator[str]:
    service = bench.service
    lease = await service.pool.lease(ask.model)
    if blend:
        await hold(lease, lambda: _put_on(lease, blend))
    if lease.version.tokenizer.has_chat_template:
        opening = [{"role": "system", "content": ask.system}] if ask.system else []
        conversation = Conversation(
            messages=[*opening, *map(_plain, messages)], settings=ask.settings, max_tokens=ask.max_tokens
        )
        answers = await hold(lease, lambda: begin(service, lease, conversation))
        try:
            async for piece in answers:
                for delta in piece.deltas:
                    if isinstance(delta, Text | Reasoning):
                        yield delta.text
        finally:
            answers.generation.close()
        return
    generation = await hold(lease, lambda: _continue(bench, ask, lease))
    try:
        async for _, event in generation:
            yield event.text
    finally:
        generation.close()


async def _continue(bench: Workbench, ask: Ask, lease: Lease) -> Generation:
    """Let a model without chat template continue the question, which it answers by itself."""
    text = f"{ask.system}\n\n{ask.prompt}" if ask.system else ask.prompt
    prompt = await bench.service.encode(lease, text, add_special_tokens=True)
    room = bench.service.count_room(lease, prompt, ask.max_tokens)
    return bench.service.start(lease, [prompt], {**ask.settings, "max_tokens": room}, 1)


async def _put_on(lease: Lease, blend: Blend) -> None:
    """Load the adapters, and let the lease use them with their weights."""
    named = {f"page:{adapter.path}": (adapter.path, weight) for adapter, weight in blend}
    for name, (path, _) in named.items():
        await lease.version.load_adapter(name, path)
    lease.use_blend({name: weight for name, (_, weight) in named.items()})


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message of the chat, whose text may come in parts, as templates read it."""
    content = message["content"]
    if isinstance(content, list):
        parts = cast("list[dict[str, Any] | str]", content)
        content = "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in parts)
    return {"role": message["role"], "content": str(content)}
