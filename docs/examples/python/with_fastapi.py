"""FastAPI: every request has a correlation ID, and what it calls hears of it.

pip install fastapi uvicorn httpx
SAGASCOPE_TOKEN=sgo_ingest_… PAYMENTS_URL=http://127.0.0.1:9000 uvicorn with_fastapi:app
"""

from __future__ import annotations

import os

import httpx
from fastapi import FastAPI
from sagascope_emit import CorrelationMiddleware, Emitter, correlated, headers

app = FastAPI()
app.add_middleware(CorrelationMiddleware)
emitter = Emitter(
    os.environ.get("SAGASCOPE_URL", "http://127.0.0.1:8000"),
    os.environ["SAGASCOPE_TOKEN"],
    "/shop/orders",
    flow="order-fulfilment",
    service="orders",
)


@app.post("/orders/{order_id}")
async def place_order(order_id: str) -> dict[str, str]:
    """Place an order and have it charged."""
    # The order's own ID says more than one made up for the request.
    with correlated(order_id):
        placed = emitter.emit("com.acme.OrderPlaced", step="place-order", kind="step.completed")
        async with httpx.AsyncClient(base_url=os.environ["PAYMENTS_URL"]) as payments:
            answer = await payments.post(f"/charges/{order_id}", headers=headers(causation_id=placed))
        if answer.is_error:
            emitter.emit(
                "com.acme.OrderRejected",
                kind="saga.failed",
                causation_id=placed,
                error=f"payments: {answer.status_code}",
            )
            return {"status": "rejected"}
    return {"status": "placed"}
