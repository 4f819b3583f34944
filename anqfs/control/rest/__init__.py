"""The REST API, in ANQ's shapes: one module for each resource, each with a table of its routes. Trio thread.

How to add a resource, in one file `rest/NAME.py`:

1. Bodies and queries are msgspec structs: fields typed and bounded with `msgspec.Meta`; a query's `rename="kebab"` where ANQ has hyphens.
2. A handler is `async def _get(call: Call) -> Any`; its docstring's first line is its summary. It reads `call.body`, `call.query` (already
   of the declared type), `call.number("id")`, `call.text("key")`, `call.node()` for `{ref}`, and asks `call.service`, whose
   `namespace`, `session`, `jobs` and `entry` are public. It returns JSON-able values or structs, or `Answer(value, 202, etag=...)`.
3. `ROUTES = [Route("GET", "/v1/things/{id}", _get, answer=Thing), ...]` at the module's end. Modules with ROUTES are found by
   themselves (`table`), and so is the OpenAPI document; `local=True` keeps a route on the Unix socket, `streams=True` leaves the body
   to the handler. A trailing slash makes no difference.
4. Errors: let anqfs.errors fly, `faults` names them; what only ANQ has a name for is `Refused(409, "tree_delete_already_started_error",
   "one line")`. 64-bit numbers are JSON strings (`str(n)`), times `moments.shown(ns)` and `moments.parsed(text)`, a version is
   `etags.of(...)` with `call.must_match(etag)` before a change, a page is `call.page(entries, after=..., name="entries")`.
5. `call.service.must_be_writable()` before a change, `await call.service.durable()` before the answer. Names and files that the kernel
   may know are told to it: `await call.service.tell(nodes, names)`. No await inside one change.
"""
