"""``python -m efficientai_toolkit._chat_templates``."""

from efficientai_toolkit._chat_templates.worker import main

main()
