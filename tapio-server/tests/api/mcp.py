"""Uses every tool of a server by the official client of MCP, and says what it got."""

import asyncio
import json
import sys

from mcp import Client

url, id, mode = sys.argv[1:]
payments = {"kind": "deploy", "namespace": "shop", "name": "payments"}
arguments = {"why": payments, "entity": payments, "incident": {"id": id}, "blast": {"incident": id}}


async def main():
    async with Client(url, mode=mode) as client:
        tools = (await client.list_tools()).tools
        answers = {}
        for tool in tools:
            of = {"cluster": tool.input_schema["properties"]["cluster"]["enum"][0], **arguments.get(tool.name, {})}
            # The client checks what has a schema of its own.
            answer = await client.call_tool(tool.name, of)
            assert not answer.is_error, answer
            assert json.loads(answer.content[0].text) == answer.structured_content, tool.name
            answers[tool.name] = answer.structured_content
        refused = await client.call_tool("incident", {"cluster": of["cluster"], "id": "TAP-999"})
        assert refused.is_error, refused
        said = {
            "revision": client.protocol_version,
            "tools": {tool.name: tool.annotations.read_only_hint for tool in tools},
            "answers": answers,
            "refused": refused.content[0].text,
        }
        print(json.dumps(said))


asyncio.run(main())
