"""A language model as a judge, behind any endpoint that speaks the chat-completions protocol of OpenAI.

Every completion is stored as soon as it arrives, so a run that is stopped pays for nothing twice. Importing this
package opens no connection and imports no client library.
"""

from sae_bench.judge.answers import Ratings, read_answers, read_explanation, read_json
from sae_bench.judge.client import Judge
from sae_bench.judge.endpoint import Patience
from sae_bench.judge.errors import JudgeError
from sae_bench.judge.options import JudgeOptions
from sae_bench.judge.records import Completion, Forecast, Request, Usage, key
from sae_bench.judge.refusals import REFUSED, Refused

__all__ = [
    "REFUSED",
    "Completion",
    "Forecast",
    "Judge",
    "JudgeError",
    "JudgeOptions",
    "Patience",
    "Ratings",
    "Refused",
    "Request",
    "Usage",
    "key",
    "read_answers",
    "read_explanation",
    "read_json",
]
