"""Nobody in: who may open what, headers, limits, and what strangers send."""
