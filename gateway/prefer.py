"""
What a caller prefers, said in the header ``Prefer`` as RFC 7240 has it.

    Prefer: handling=strict     refuse the request if a parameter of it would be clamped or ignored
    Prefer: early-hints         tell the job's id at once, in a response with status 103

Preferences that are not known here are ignored, as the RFC wants it; ``Preference-Applied`` names
those that were followed.
"""

import re
from collections.abc import Iterable

HANDLING_STRICT = "handling=strict"
EARLY_HINTS = "early-hints"

# Nobody has more to prefer.
MAX_CHARACTERS = 1000
_ITEM = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^",])+')


def preferences_of(lines: Iterable[str]) -> list[str]:
    """
    Return the preferences of all ``Prefer`` headers, as ``name`` or ``name=value``.

    Names and values are in lower case; parameters of preferences are left out, and where a name
    comes twice the first one counts.
    """
    found: dict[str, str] = {}
    for item in _ITEM.findall(",".join(lines)[:MAX_CHARACTERS]):
        name, _, value = item.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"').lower())
    return [f"{name}={value}" if value else name for name, value in found.items() if name]
