"""A server that speaks the chat API, as a stand-in for judges: errors, delays and biases that a test chooses.

It runs in a process of its own: ``python chat_server.py SETTINGS.json``. What it was asked and what it said are
lines of the file that the settings name ``log``.
"""

import asyncio
import hashlib
import json
import random
import re
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PLACE = re.compile(r"<(提问|文档|句子一|句子二) (\w+)>\n(.*?)\n</\1 \2>", re.DOTALL)


def chance(*key):
    """Return a number from 0 to 1 that is the same whenever it is asked for, in any process."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") / 2**64


def grade(settings, judge, query, document):
    """Return what a judge says of two texts: the truth, or an error at its known rates."""
    rates = settings["judges"].get(judge, {})
    truth = settings.get("truth", {}).get(f"{query}\n{document}", 0)
    drawn = chance(judge, query, document)
    positive = drawn >= rates.get("miss", 0.0) if truth > 0 else drawn < rates.get("false_alarm", 0.0)
    low, high = ((4, 5) if positive else (1, 3)) if "fixed" not in rates else (rates["fixed"], rates["fixed"])
    return low + int(chance(judge, query, document, "grade") * (high - low + 1))


def make_app(settings):
    log = Path(settings["log"])
    tries = {}

    def note(**values):
        with log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values, ensure_ascii=False) + "\n")

    async def complete(request):
        body = await request.json()
        judge = body["model"]
        faults = settings["judges"].get(judge, {}).get("faults", {})
        user = next(m["content"] for m in body["messages"] if m["role"] == "user")
        texts = {name: text for name, _, text in PLACE.findall(user)}
        query = texts.get("提问", texts.get("句子一", ""))
        document = texts.get("文档", texts.get("句子二", ""))
        repair = any(m["role"] == "assistant" for m in body["messages"])
        key = (judge, query, document)
        tries[key] = tries.get(key, 0) + 1
        note(
            event="asked",
            judge=judge,
            query=query,
            document=document,
            body=body,
            repair=repair,
            authorization=request.headers.get("authorization"),
        )
        await asyncio.sleep(settings.get("delay", 0.0) * random.random())
        if faults.get("only", "") not in document:
            pass
        elif "always" in faults or tries[key] <= faults.get("times", 1):
            kind = faults.get("always") or next(
                (
                    name
                    for name, rate in faults.get("rates", {}).items()
                    if chance("fault", name, *key) < rate and (name != "broken" or not repair)
                ),
                None,
            )
            if kind == "429":
                return JSONResponse(
                    {"error": {"message": "slow down"}}, 429, {"Retry-After": faults.get("retry_after", "0")}
                )
            if kind in ("400", "401", "500"):
                echoed = request.headers.get("authorization", "")
                return JSONResponse({"error": {"message": f"failed {echoed}"}}, int(kind))
            if kind == "timeout":
                await asyncio.sleep(faults.get("seconds", 1.0))
            if kind == "drip":

                async def drip():
                    for _ in range(100):
                        yield b" "
                        await asyncio.sleep(0.1)

                return StreamingResponse(drip(), 200, media_type="application/json")
            if kind == "closed":
                return Response(b"{", 200, {"Content-Type": "application/json", "Content-Length": "500"})
            if kind == "redirect":
                return Response(b"", 307, {"Location": faults["to"]})
            if kind == "broken":
                text = faults.get("text", "五分，因为文档回答了提问。")
                return answer(body, text, faults.get("message", {}))
        given = grade(settings, judge, query, document)
        note(event="answered", judge=judge, query=query, document=document, grade=given)
        return answer(
            body, json.dumps({"reason": f"依据：{document[:8]}", "grade": given}, ensure_ascii=False)
        )

    def answer(body, content, more=None):
        words = sum(len(m["content"]) for m in body["messages"])
        return JSONResponse(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": f"{body['model']}-2026",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": content, **(more or {})},
                    }
                ],
                "usage": {
                    "prompt_tokens": words,
                    "completion_tokens": len(content),
                    "total_tokens": words + len(content),
                },
            }
        )

    return Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])


def main():
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    config = uvicorn.Config(make_app(settings), host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)

    async def serve():
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        await task

    asyncio.run(serve())


if __name__ == "__main__":
    main()
