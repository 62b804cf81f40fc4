"""Looks: one accent colour, the fonts of the system, light and dark."""

from typing import Any

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

ACCENT = "#6366f1"
"""The accent, also of the first curve."""

CURVES = (ACCENT, "#0d9488", "#d97706", "#db2777", "#65a30d", "#0284c7", "#9333ea", "#737373")
"""Colours of curves, all of which can be read on white and on black."""

ICON = (
    "<link rel='icon' href=\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
    "<path d='M2 12 6 7l3 3 5-7' fill='none' stroke='%234f46e5' stroke-width='2.4'/></svg>\">"
)
"""Icon of the page, for its head."""

CSS = """
.gradio-container { width: 100% !important; max-width: 1280px !important; margin: 0 auto !important; }
.gradio-container .main { padding: 20px 24px !important; max-width: 100% !important; }
.html-container { padding: 0 !important; }
.gradio-container button { font-weight: 500; }
.eat-head h1 { margin: 0; font-size: 1.35rem; }
.eat-head p, .eat-note { margin: 4px 0; color: var(--body-text-color-subdued); }
.eat-empty { border: 1px dashed var(--border-color-primary); border-radius: 10px; padding: 22px 18px;
  text-align: center; color: var(--body-text-color-subdued); }
.eat-empty b { display: block; color: var(--body-text-color); margin-bottom: 4px; }
.eat-cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 8px; }
.eat-card { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 9px 12px;
  background: var(--background-fill-primary); min-width: 0; }
.eat-card span { display: block; font-size: .8rem; color: var(--body-text-color-subdued); }
.eat-card b { font-size: 1.05rem; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.eat-state { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: center; margin-bottom: 8px; }
.eat-badge { border-radius: 99px; padding: 1px 10px; font-size: .82rem; font-weight: 600;
  border: 1px solid var(--border-color-primary); }
.eat-badge.running, .eat-badge.finished { color: var(--color-accent); border-color: currentColor; }
.eat-badge.failed { color: var(--error-text-color); border-color: currentColor; }
.eat-bar { height: 8px; border-radius: 99px; background: var(--background-fill-secondary); overflow: hidden;
  border: 1px solid var(--border-color-primary); margin-bottom: 10px; }
.eat-bar div { height: 100%; background: var(--color-accent); }
.eat-error { border-left: 3px solid var(--error-text-color); padding: 6px 12px; overflow-wrap: anywhere;
  background: var(--background-fill-secondary); border-radius: 0 8px 8px 0; margin: 6px 0; }
.eat-title { font-weight: 600; margin: 14px 0 6px; }
.eat-bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 3px 10px;
  align-items: center; font-size: .85rem; font-variant-numeric: tabular-nums; }
.eat-bars div { height: 12px; border-radius: 3px; background: var(--color-accent); min-width: 2px; }
.eat-row { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 10px 12px;
  margin-bottom: 8px; white-space: pre-wrap; overflow-wrap: anywhere; font-family: var(--font-mono);
  font-size: .84rem; line-height: 1.5; background: var(--background-fill-primary);
  color: var(--body-text-color-subdued); }
.eat-row mark { background: var(--color-accent-soft); color: var(--body-text-color); border-radius: 3px;
  box-shadow: 0 2px 0 var(--color-accent); padding: 0 1px; }
.eat-table { overflow-x: auto; }
.eat-table table { border-collapse: collapse; width: 100%; font-size: .88rem;
  font-variant-numeric: tabular-nums; }
.eat-table th, .eat-table td { text-align: left !important; padding: 6px 14px 6px 0 !important;
  vertical-align: top; border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important;
  white-space: nowrap; }
.eat-table table, .eat-table tr { border: 0 !important; }
.eat-table th { color: var(--body-text-color-subdued); font-weight: 500; white-space: nowrap; }
.placeholder-content { text-align: center; padding: 0 16px; }
.eat-log textarea { font-family: var(--font-mono) !important; font-size: .8rem !important; }
@media (max-width: 600px) {
  .gradio-container .main { padding: 12px !important; }
  .tab-container button { padding: 0 10px !important; }
  #chat-base, #chat-adapted { height: 280px !important; }
}
"""


def create_theme(gr: Any) -> Any:
    """Create the theme; ``gr`` is Gradio."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=FONT,
        font_mono=MONOSPACE,
    ).set(
        chatbot_text_size="*text_md",
        button_large_text_size="*text_md",
        button_large_text_weight="500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        slider_color="*primary_500",
        slider_color_dark="*primary_400",
    )
