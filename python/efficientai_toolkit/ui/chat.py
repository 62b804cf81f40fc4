"""Tab 4: the model with and without adapters, side by side."""

from collections.abc import AsyncIterator
from typing import Any

from efficientai_toolkit.ui import html
from efficientai_toolkit.ui.answers import Ask, answer_both
from efficientai_toolkit.ui.events import QUIET, Refresh
from efficientai_toolkit.ui.workbench import Adapter, Workbench

SLIDERS = 4
"""Most adapters that are blended."""

_CHOSEN_PLACEHOLDER = "Choose an adapter to compare it with the model alone."


def list_adapters(bench: Workbench, model: str) -> dict[str, Adapter]:
    """Return the adapters of a model by name."""
    return {adapter.name: adapter for adapter in bench.list_adapters() if adapter.model == model}


class ChatTab:
    """The tab; ``gr`` is Gradio."""

    def __init__(self, gr: Any, bench: Workbench) -> None:
        self._gr = gr
        self._bench = bench

    def build(self) -> Refresh:
        """Build the components; return what is done when the page or the tab opens."""
        gr, models = self._gr, self._bench.list_models()
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                model = gr.Dropdown(
                    models, value=models[0], label="Model", allow_custom_value=True, elem_id="chat-model"
                )
                adapters = gr.Dropdown(
                    [],
                    value=[],
                    multiselect=True,
                    max_choices=SLIDERS,
                    label="Adapters",
                    info="several are blended by their weights",
                    allow_custom_value=True,
                    elem_id="chat-adapters",
                )
                missing = gr.HTML("")
                weights = [
                    gr.Slider(0, 2, value=1, step=0.05, label="Weight", visible=False) for _ in range(SLIDERS)
                ]
                with gr.Accordion("Sampling", open=False):
                    temperature = gr.Slider(
                        0, 2, value=0, step=0.05, label="Temperature", info="0: always the likeliest token"
                    )
                    top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p")
                    top_k = gr.Slider(0, 200, value=0, step=1, label="Top-k", info="0: off")
                    penalty = gr.Slider(1, 2, value=1, step=0.05, label="Repetition penalty")
                    tokens = gr.Slider(8, 2048, value=128, step=8, label="Maximum new tokens")
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                    system = gr.Textbox(label="System prompt", lines=2)
            with gr.Column(scale=5, min_width=320):
                with gr.Row():
                    base = self._chatbot("Model alone", "Ask something below.", "chat-base")
                    adapted = self._chatbot("With adapter", _CHOSEN_PLACEHOLDER, "chat-adapted")
                prompt = gr.Textbox(
                    show_label=False, placeholder="Write a message", lines=2, elem_id="chat-prompt"
                )
                with gr.Row():
                    send = gr.Button("Send", variant="primary", elem_id="chat-send", min_width=90)
                    halt = gr.Button("Stop", min_width=90)
                    clear = gr.Button("Clear", min_width=90)
        settings = [temperature, top_p, top_k, penalty, tokens, seed, system]
        inputs = [prompt, base, adapted, model, adapters, *weights, *settings]
        outputs = [prompt, base, adapted]
        running = [
            event(self.respond, inputs, outputs, show_progress="hidden", api_visibility="private")
            for event in (send.click, prompt.submit)
        ]
        halt.click(None, cancels=running, **QUIET)
        clear.click(self.clear, None, outputs, cancels=running, **QUIET)
        adapters.change(self.show_weights, adapters, weights, **QUIET)
        model.change(self.offer, [model, adapters], [adapters, missing], **QUIET)
        return Refresh(self.refresh, [model, adapters], [model, adapters, missing])

    def _chatbot(self, label: str, placeholder: str, name: str) -> Any:
        return self._gr.Chatbot(
            label=label,
            placeholder=placeholder,
            height=420,
            min_width=250,
            elem_id=name,
            feedback_options=None,
            buttons=["copy"],
        )

    async def respond(
        self, prompt: str, base: list[Any], adapted: list[Any], *rest: Any
    ) -> AsyncIterator[Any]:
        """Answer with and without adapters, piece by piece."""
        model, names, *values = rest
        weights, values = values[:SLIDERS], values[SLIDERS:]
        if not prompt.strip():
            yield self._gr.skip(), self._gr.skip(), self._gr.skip()
            return
        known = list_adapters(self._bench, model)
        blend = [
            (known[name], float(weight))
            for name, weight in zip(names or [], weights, strict=False)
            if name in known
        ]
        ask = Ask.from_form(model, prompt, values)
        async for first, second in answer_both(self._bench, ask, base, adapted, blend):
            yield "", first, second

    def clear(self) -> tuple[str, list[Any], list[Any]]:
        """Forget both conversations."""
        return "", [], []

    def show_weights(self, names: list[str]) -> list[Any]:
        """Show a slider for each adapter."""
        shown = list(names or [])[:SLIDERS]
        return [self._gr.Slider(label=f"Weight of {name}", visible=True) for name in shown] + [
            self._gr.Slider(visible=False) for _ in range(SLIDERS - len(shown))
        ]

    def offer(self, model: str, chosen: list[str]) -> tuple[Any, str]:
        """Offer the adapters of a model, the newest one chosen if none is."""
        names = list(list_adapters(self._bench, model))
        kept = [name for name in chosen or [] if name in names] or names[:1]
        hint = "" if names else html.empty("No adapters yet", "Train one in the tab Train: it appears here.")
        return self._gr.Dropdown(names, value=kept), hint

    def refresh(self, model: str, chosen: list[str]) -> tuple[Any, Any, str]:
        """Offer what there is."""
        models = self._bench.list_models()
        model = model if model in models else models[0]
        return self._gr.Dropdown(models, value=model), *self.offer(model, chosen)
