"""A running vLLM server, asked over its OpenAI API for the text of a page and the scores that it was chosen by."""

import base64
import io
import json
import secrets
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from PIL import Image

from components.shared.errors import UserError
from components.shared.reading.transcriber import StepByStep

_SECONDS = 900  # the first request compiles kernels: 50 s on two busy cores
_TOP = 16  # scores a token; vLLM gives 20 at most unless told otherwise
_TOKEN = "token_id:"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for the error that it is: urllib would send the key to wherever it points."""

    def redirect_request(self, *_: Any) -> None:
        return None


# No proxy and no redirect: pages and key go to the server that was named, and nowhere else.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())


@dataclass(frozen=True)
class VllmServer:
    """A server's address, such as ``http://127.0.0.1:8000``, and the token it asks for, if any."""

    address: str
    token: str | None = None

    def models(self) -> dict[str, str | None]:
        """Return the served models: name -> the base that an adapter is on; None for a base.

        Raises:
            UserError: there is no vLLM at the address.
        """
        answer = self._answer("/v1/models")
        try:
            return {model["id"]: model.get("parent") for model in answer["data"]}
        except (KeyError, TypeError) as error:
            raise self._unexpected(answer) from error

    def read(self, model: str, page: Image.Image, prompt: str, max_new_tokens: int) -> StepByStep:
        """Return what a model reads on a page, greedily, with the most likely tokens' log-probabilities.

        Raises:
            UserError: the server refuses or fails.
        """
        png = io.BytesIO()
        page.save(png, "PNG")
        picture = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": prompt}]
        request = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "repetition_penalty": 1.0,  # vLLM would take it from generation_config.json; here it is off on both sides
            # vLLM keeps what it read before, and tells adapters apart by name and folder, not by their weights.
            "cache_salt": secrets.token_hex(16),
            "max_tokens": max_new_tokens,
            "logprobs": True,
            "top_logprobs": _TOP,
            "return_tokens_as_token_ids": True,
        }
        answer = self._answer("/v1/chat/completions", request)
        try:
            choice = answer["choices"][0]
            steps = choice["logprobs"]["content"]
            return StepByStep(
                choice["message"]["content"],
                [_token_id(step) for step in steps],
                [{_token_id(one): one["logprob"] for one in step["top_logprobs"]} for step in steps],
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._unexpected(answer) from error

    def _answer(self, path: str, content: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        url = self.address.rstrip("/") + path
        try:
            request = urllib.request.Request(url, json.dumps(content).encode() if content else None, headers)
            with _DIRECT.open(request, timeout=_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode("utf-8", "replace")
            raise self._error(f"vLLM answers {path} with {error.code}: {said}") from error
        except (OSError, ValueError) as error:  # ValueError: not an address, or not JSON
            raise self._error(f"vLLM does not answer at {path} ({error})") from error

    def _unexpected(self, answer: Any) -> UserError:
        return self._error(f"this is no answer of vLLM: {json.dumps(answer)[:200]}")

    def _error(self, problem: str) -> UserError:
        return UserError(
            problem, where=self.address, mend="start vLLM as the package's README.md says, and read its log"
        )


def _token_id(step: dict[str, Any]) -> int:
    return int(step["token"].removeprefix(_TOKEN))
