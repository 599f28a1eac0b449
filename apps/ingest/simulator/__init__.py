"""Believable sagas for demos and trials: stories that end up as CloudEvents, sent through the real HTTP door.

Pure: no framework is imported here. The same seed and start give the same events, byte for byte; at another start
the same stories have other identifiers.

- `script`: the pen; a story's clock and the CloudEvents it writes down
- `payloads`: who orders what
- `process`: how an orchestrator runs its steps, retries them and undoes them
- `orders`, `travel`, `freight`, `invoices`, `returns`: the stories
- `scenarios`: all stories with their frequency
- `traffic`: many sagas at once, over transports that lose, repeat, delay and reorder
"""
