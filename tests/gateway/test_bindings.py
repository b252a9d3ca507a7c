import pytest

from gateway.bindings import bindings_of, request_json
from gateway.suite import SERVICES
from services.rpc.errors import InvalidRequest

BINDINGS = bindings_of(SERVICES.values())


def match(verb, path):
    return [one for one in BINDINGS if one.verb == verb and one.pattern.fullmatch(path)]


@pytest.mark.parametrize(
    ("verb", "path", "method"),
    [
        ("GET", "/pictor/v1/models", "ListModels"),
        ("GET", "/pictor/v1/models/a", "GetModel"),
        ("GET", "/pictor/v1/models/a/b.c", "GetModel"),
        ("GET", "/pictor/v1/jobs/5f0c", "GetJob"),
        ("GET", "/pictor/v1/jobs/5f0c:watch", "WatchJob"),
        ("POST", "/pictor/v1/jobs/5f0c:cancel", "CancelJob"),
        ("POST", "/pictor/v1/accounts/a/apiKeys/b:revoke", "RevokeApiKey"),
        ("GET", "/pictor/v1/accounts/-/apiKeys", "ListApiKeys"),
        ("DELETE", "/pictor/v1/assets/a", "DeleteAsset"),
        ("GET", "/pictor/v1/servingStatuses:watch", "WatchServingStatuses"),
    ],
)
def test_a_path_belongs_to_one_method(verb, path, method):
    """
    Templates are read as google.api.http defines them, verbs included.
    """
    assert [one.method.name for one in match(verb, path)] == [method]


@pytest.mark.parametrize(
    "path",
    ["/pictor/v1/jobs/a/b", "/pictor/v1/jobs/a:fly", "/pictor/v1/jobs/", "/pictor/v1/models/"],
)
def test_other_paths_belong_to_none(path):
    """
    One star is one segment, and an unknown verb is not part of a name.
    """
    assert match("GET", path) == []


def test_no_internal_method_is_exposed():
    """
    What no API key may call has no route.
    """
    methods = {one.method.name for one in BINDINGS}

    assert not methods & {"Authenticate", "ReportReplica", "Run"}


def test_path_body_and_query_make_one_message():
    """
    The path wins; a body field takes the body; the rest comes from the query.
    """
    create = match("POST", "/pictor/v1/accounts/a/apiKeys")[0]
    listing = match("GET", "/pictor/v1/jobs")[0]

    made = request_json(create, "/pictor/v1/accounts/a/apiKeys", {"scopes": ["inference"]}, [])
    listed = request_json(
        listing,
        "/pictor/v1/jobs",
        None,
        [("pageSize", "3"), ("states", "STATE_QUEUED"), ("states", "2")],
    )

    assert made == {"parent": "accounts/a", "api_key": {"scopes": ["inference"]}}
    assert listed == {"page_size": "3", "states": ["STATE_QUEUED", "2"]}


def test_a_query_beside_a_whole_body_counts():
    """
    A quote that is asked for in the query must not become a job.
    """
    create = match("POST", "/pictor/v1/jobs")[0]
    body = {"generation": {"prompt": "a"}}

    made = request_json(create, "/pictor/v1/jobs", body, [("validate_only", "true")])

    assert made == {**body, "validate_only": True}
    with pytest.raises(InvalidRequest, match="the fields here are"):
        request_json(create, "/pictor/v1/jobs", body, [("validate", "true")])


def test_nested_fields_come_from_the_query():
    """
    A dot leads into a message, and true and false are read as such.
    """
    watch = match("GET", "/pictor/v1/jobs/a:watch")[0]
    revoke = match("POST", "/pictor/v1/accounts")[0]

    watched = request_json(watch, "/pictor/v1/jobs/a:watch", None, [("includePreviews", "true")])
    nested = request_json(revoke, "/pictor/v1/accounts", None, [("account.displayName", "x")])

    assert watched == {"include_previews": True, "name": "jobs/a"}
    assert nested == {"account": {"display_name": "x"}}


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "",
        ".",
        "pageSize.more",
        "pageToken.pageToken",
        "states.x",
        "states.states",
        "pageSize..pageSize",
        "pageToken" + ".pageToken" * 5000,
    ],
)
def test_an_unknown_query_parameter_is_refused(name):
    """
    A misspelt filter would otherwise show more than was asked for.
    """
    with pytest.raises(InvalidRequest, match="the fields here are"):
        request_json(match("GET", "/pictor/v1/jobs")[0], "/pictor/v1/jobs", None, [(name, "1")])


@pytest.mark.parametrize(
    ("verb", "path", "body", "query"),
    [
        ("GET", "/pictor/v1/jobs", None, [("pageToken", "a"), ("pageToken.pageToken", "b")]),
        ("GET", "/pictor/v1/jobs", None, [("pageSize", "1"), ("page_size", "2")]),
        ("POST", "/pictor/v1/accounts", None, [("account", "a"), ("account.displayName", "b")]),
        ("POST", "/pictor/v1/accounts", None, [("account.displayName", "b"), ("account", "a")]),
        ("POST", "/pictor/v1/accounts", [1], [("account.displayName", "b")]),
        ("POST", "/pictor/v1/accounts/a/apiKeys", {"scopes": "x"}, [("apiKey.scopes", "y")]),
    ],
)
def test_a_query_that_contradicts_itself_or_the_body_is_refused(verb, path, body, query):
    """
    One value is given once, and what is a value has nothing inside.
    """
    with pytest.raises(InvalidRequest) as error:
        request_json(match(verb, path)[0], path, body, query)

    assert error.value.violations[0].field
