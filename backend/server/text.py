"""Routes of language: live distributions, paths, and completions as OpenAI's clients ask for them."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from backend.core.errors import AtlasError, Invalid, Superseded
from backend.engine.work import Priority
from backend.server.answers import event, event_stream, failure, line, settle, superseded_response
from backend.server.canvas import SUPERSEDED, CanvasId
from backend.server.session import Atlas, user_of
from backend.wire.base import ErrorBody
from backend.wire.text import CompletionRequest, PathRequest, PathResponse, TextCanvasRequest, TextFrame

router = APIRouter(tags=["language"])

ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorBody} for code in (404, 409, 422, 503)}


@router.put("/v1/text/{canvas}", response_model=TextFrame, responses={**ERRORS, **SUPERSEDED})
async def put_text(canvas: CanvasId, body: TextCanvasRequest, request: Request, atlas: Atlas) -> Response:
    """The next-token distribution for every arm, or 204 where a newer ``seq`` replaced this one."""
    adapter = await atlas.model(body.model, "text")
    user = ("text", canvas)

    def draw(steerer: Any) -> TextFrame:
        from backend.steering.text_canvas import frame

        return frame(steerer, body)

    future = atlas.mailbox.put(
        user, body.seq, lambda: atlas.text_work(adapter, body.manifold, draw, priority=Priority.DRAG, user=user)
    )
    try:
        frame, spans = await settle(request, future, lambda: atlas.mailbox.abandon(user, body.seq))
    except Superseded as error:
        return superseded_response(error)
    return Response(_timed(frame, spans).model_dump_json(), media_type="application/json")


@router.post("/v1/text/path", response_model=PathResponse, responses=ERRORS)
async def post_path(body: PathRequest, request: Request, atlas: Atlas) -> Response:
    """Class probabilities on the way from ``t_from`` to ``t``, for every arm."""
    adapter = await atlas.model(body.model, "text")

    def walk(steerer: Any) -> PathResponse:
        from backend.steering.text_canvas import path

        return path(steerer, body)

    work = atlas.text_work(adapter, body.manifold, walk, priority=Priority.IMAGE, user=user_of(request))
    path, spans = await settle(request, atlas.submit(work), lambda: atlas.scheduler.cancel(work))
    return Response(_timed(path, spans).model_dump_json(), media_type="application/json")


def _timed(message: Any, spans: dict[str, float]) -> Any:
    # What the steerer measured inside its step stays; the wait before it is the engine's.
    message.timing_ms = {"queue": spans.get("queue", 0.0), **message.timing_ms}
    return message


@router.get("/v1/models")
async def get_models(atlas: Atlas) -> dict[str, Any]:
    """The loaded models, in OpenAI's list form."""
    loaded = atlas.models.loaded().values()
    data = [
        {"id": a.name, "object": "model", "created": 0, "owned_by": "manifold-atlas", "kind": a.kind}
        for a in sorted(loaded, key=lambda a: (a.kind != "text", a.name))
    ]
    return {"object": "list", "data": data}


@router.post("/v1/completions", responses=ERRORS)
async def post_completions(body: CompletionRequest, request: Request, atlas: Atlas) -> Response:
    """Continue a prompt; with ``stream`` as server-sent events that end in ``[DONE]``.

    Every token is a step of its own on the device, so a long text never holds up a drag.
    """
    adapter = await atlas.model(body.model, "text")
    stops = [body.stop] if isinstance(body.stop, str) else list(body.stop or [])
    if len(stops) > 4 or any(not s for s in stops):
        raise Invalid("Stop strings were given.", f"There are {len(stops)}, or one is empty.", "Give 1 to 4.")
    user = user_of(request)

    def begin(steerer: Any) -> Iterator[Any]:
        from backend.steering.continuation import complete

        return complete(
            steerer, body.prompt, body.max_tokens, temperature=body.temperature, seed=body.seed or 0,
            steering=body.steering, stop=stops, n_top=body.logprobs or 0,
        )  # fmt: skip

    manifold = body.steering.manifold if body.steering else None
    pieces: list[Iterator[Any]] = []

    async def step() -> Any | None:
        def turn(steerer: Any) -> Any | None:
            if not pieces:
                pieces.append(begin(steerer))
            return next(pieces[0], None)

        work = atlas.text_work(adapter, manifold, turn, priority=Priority.IMAGE, user=user)
        piece, _ = await settle(request, atlas.submit(work), lambda: atlas.scheduler.cancel(work))
        return piece

    answer = _Answer(body, n_prompt=len(adapter.tokenizer(body.prompt)["input_ids"]))
    first = await step()  # errors of the request itself come as a status, before a stream has begun
    if body.stream:
        return event_stream(_stream(answer, first, step, request))
    piece = first
    while piece is not None:
        answer.take(piece)
        piece = None if piece.finish else await step()
    return JSONResponse(answer.whole())


async def _stream(answer: _Answer, first: Any, step: Any, request: Request) -> AsyncIterator[str]:
    piece = first
    try:
        while piece is not None:
            yield event(line(answer.chunk(piece)))
            piece = None if piece.finish else await step()
    except AtlasError as error:
        body = ErrorBody(error=type(error).__name__, asked=error.asked, true=error.true, todo=error.todo)
        yield event(line({"error": {"message": str(error), **body.model_dump()}}))
    except Exception as error:
        yield event(line({"error": {"message": str(failure(request, error))}}))
    yield event("[DONE]")


class _Answer:
    """A completion in OpenAI's form, piece by piece."""

    def __init__(self, body: CompletionRequest, n_prompt: int) -> None:
        self.body, self.n_prompt, self.n_new, self.text, self.finish = body, n_prompt, 0, "", "length"
        self.head = {"id": f"cmpl-{uuid.uuid4().hex[:20]}", "object": "text_completion", "created": int(time.time()),
                     "model": body.model}  # fmt: skip
        self.logs: dict[str, list] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def take(self, piece: Any) -> dict[str, list]:
        logs = {"tokens": [piece.text], "token_logprobs": [piece.logprob], "top_logprobs": [dict(piece.top)],
                "text_offset": [len(self.text)]}  # fmt: skip
        for name, values in logs.items():
            self.logs[name] += values
        self.text += piece.text
        self.n_new += 1
        self.finish = piece.finish or self.finish
        return logs

    def chunk(self, piece: Any) -> dict[str, Any]:
        logs = self.take(piece)
        return {**self.head, "choices": [self._choice(piece.text, logs, piece.finish)]}

    def whole(self) -> dict[str, Any]:
        usage = {"prompt_tokens": self.n_prompt, "completion_tokens": self.n_new,
                 "total_tokens": self.n_prompt + self.n_new}  # fmt: skip
        return {**self.head, "choices": [self._choice(self.text, self.logs, self.finish)], "usage": usage}

    def _choice(self, text: str, logs: dict[str, list], finish: str | None) -> dict[str, Any]:
        wanted = self.body.logprobs is not None
        return {"index": 0, "text": text, "logprobs": logs if wanted else None, "finish_reason": finish}
