"""The whole API as its OpenAPI document says it: schemathesis asks what it likes, and no answer may be off it.

COAT_API_EXAMPLES: how many requests a call; COAT_API_URL: a controller that runs, instead of one in this process.
"""

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from webob import Request

from coat_ryu import openapi, rest
from tests.unit.test_rest import FakeServices

EXAMPLES = int(os.environ.get("COAT_API_EXAMPLES", "25"))
URL = os.environ.get("COAT_API_URL")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


class Quiet(FakeServices):
    """No call of it fails on its own account."""

    def nodes(self) -> list[dict[str, Any]]:
        return []


def application(environ: dict[str, Any], start_response: Any) -> Any:
    return rest.dispatch(Quiet(), Request(environ))(environ, start_response)


def document() -> dict[str, Any]:
    """Without the events, whose answer has no end."""
    whole = openapi.document(rest.ROUTES)
    del whole["paths"]["/v1.0/events"]
    return whole


if URL:
    schema = schemathesis.openapi.from_dict(document())
    schema.config.update(base_url=URL)
else:
    schema = schemathesis.openapi.from_dict(document())
    schema.app = application


@pytest.mark.timeout(1800)
@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_answer_is_off_the_document(case: schemathesis.Case[Any]) -> None:
    response = case.call()
    case.validate_response(response, checks=CHECKS)
    assert "Traceback (most recent" not in response.text
