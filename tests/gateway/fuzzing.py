"""What schemathesis cannot know: which model draws, so that good requests draw pictures."""

import schemathesis

from tests.gateway.house import SERVED

NAMES = ("model", "model_name")


@schemathesis.hook
def map_body(context, body):
    """Name the model that is served; of every other prompt, ask for nothing else."""
    if not isinstance(body, dict):
        return body
    served = {name: SERVED for name in NAMES if isinstance(body.get(name), str)}
    prompt = body.get("prompt")
    if isinstance(prompt, str) and prompt.strip() and len(prompt) % 2:
        return {"prompt": prompt, **(served or {"model": SERVED})}
    return {**body, **served}
