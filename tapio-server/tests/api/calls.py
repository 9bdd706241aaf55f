"""Calls each operation of a client that was made from the description of the API, and says what it got."""

import json
import sys

from made import Client
from made.api.default import (
    blast,
    changes,
    correlate,
    coverage,
    entity,
    export,
    findings,
    incident,
    incidents,
    mutes,
    openapi,
    why,
)

url, id = sys.argv[1:]
client = Client(base_url=url)
payments = {"kind": "deploy", "namespace": "shop", "name": "payments"}
calls = {
    "why": (why, payments),
    "correlate": (correlate, {"trace_id": "0af7651916cd43dd8448eb211c80319c"}),
    "incidents": (incidents, {"namespace": "shop"}),
    "incident": (incident, {"id": id}),
    "findings": (findings, {}),
    "coverage": (coverage, {}),
    "changes": (changes, {}),
    "entity": (entity, payments),
    "blast": (blast, {"incident": id}),
    "export": (export, {"incident": id}),
    "mutes": (mutes, {}),
    "openapi": (openapi, {}),
}
for name, (operation, arguments) in calls.items():
    answer = operation.sync_detailed(client=client, **arguments)
    assert answer.status_code == 200, (name, answer)
    if name not in ("export", "openapi"):
        assert answer.parsed is not None and answer.parsed.to_dict() == json.loads(answer.content), name
read = incident.sync(client=client, id=id)
unknown = incident.sync_detailed(client=client, id="TAP-999")
print(json.dumps({"called": list(calls), "incident": read.to_dict(), "unknown": unknown.status_code}))
