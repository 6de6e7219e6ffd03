"""Writes pairs as mitmproxy's flows. Runs in mitmproxy's own environment: `python _flows.py FILE < lines`.

A line is a JSON array: URL, headers of the request, its body, the body of the answer.
"""

from __future__ import annotations

import json
import sys

from mitmproxy import http, io  # type: ignore[import-not-found]
from mitmproxy.test import tflow  # type: ignore[import-not-found]


def main() -> None:
    """Write a flow a line."""
    with open(sys.argv[1], "wb") as file:
        writer = io.FlowWriter(file)
        for line in sys.stdin:
            url, headers, body, answer = json.loads(line)
            flow = tflow.tflow()
            flow.request = http.Request.make("POST", url, body, headers)
            flow.response = http.Response.make(200, answer, {"Content-Type": "application/json"})
            writer.add(flow)


if __name__ == "__main__":
    main()
