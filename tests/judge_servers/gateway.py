"""A gateway of a company before another endpoint: it wants a header of its own beside the key.

Follows no single product: Cloudflare's AI Gateway (``cf-aig-authorization``) and Portkey (``x-portkey-api-key``) have
such headers. The body of the refusal is ours.
"""

from __future__ import annotations

from typing import ClassVar

from tests.builders.judge_server import Response, Sent
from tests.judge_servers.openai import OpenAI

HEADER = "x-gateway-token"


class Gateway(OpenAI):
    """``token`` is what the header must bear."""

    path: ClassVar[str] = "/openai/v1"
    token: str = ""

    def admit(self, sent: Sent) -> Response | None:
        if (given := sent.headers.get(HEADER, "")) != self.token:
            return Response(403, {"error": {"message": f"the token {given!r} is not known", "type": "forbidden"}})
        return super().admit(sent)
