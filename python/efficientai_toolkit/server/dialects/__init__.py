"""What models write: reasoning, answers and tool calls in the formats of their families."""
