"""Reads lines of `rdb-client subscribe` on standard input as somebody else's program would.

Each line is checked against the JSON schema; a CloudEvent is read by the SDK of CloudEvents, too. What was understood
is printed, a JSON object a line. The first line that is not as it should be ends it, with exit code 1.

Usage: read_formats.py json|cloudevents|debezium SCHEMA
"""

import base64
import json
import sys

from cloudevents.core.formats.json import JSONFormat
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import best_match


def understood(line):
    """A CloudEvent by its accessors, so that nothing counts that the SDK did not see."""
    event = JSONFormat().read(None, line)
    data = event.get_data()
    is_bytes = isinstance(data, (bytes, bytearray))
    return {
        "id": event.get_id(),
        "source": event.get_source(),
        "type": event.get_type(),
        "subject": event.get_subject(),
        "micros": round(event.get_time().timestamp() * 1_000_000),
        "content_type": event.get_datacontenttype(),
        "data": base64.b64encode(data).decode() if is_bytes else data,
        **{name: event.get_extension(name) for name in ("sequence", "version", "kind", "tags", "meta")},
    }


def main(form, schema):
    with open(schema, encoding="utf-8") as file:
        schema = json.load(file)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    for number, line in enumerate(sys.stdin.buffer, 1):
        value = json.loads(line)
        error = best_match(validator.iter_errors(value))
        if error:
            sys.exit(f"line {number} is not as the schema says: {error.message}: {line!r}")
        if form == "cloudevents" and "resolved" not in value:
            value = understood(line)
        print(json.dumps(value))


main(*sys.argv[1:])
