"""`fastagent dial`: let an agent of a running gateway call somebody."""

import asyncio
import json
from typing import Annotated, Any

import typer

_POLL_S = 0.25


def dial(
    to: Annotated[str, typer.Argument(help="A number, or a SIP address.")],
    agent: Annotated[str | None, typer.Option(help="Who talks; the default agent, if not given.")] = None,
    caller: Annotated[str, typer.Option(help="The number to be shown.")] = "",
    metadata: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, for the agent. May be repeated.")] = None,
    ring: Annotated[int, typer.Option(help="Let it ring so long.", metavar="S", min=5, max=180)] = 60,
    url: Annotated[str, typer.Option(help="The gateway.")] = "http://127.0.0.1:8000",
    key: Annotated[str | None, typer.Option(envvar="FASTAGENT_API_KEY", help="Its API key.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document at the end.")] = False,
) -> None:
    """Let an agent of a running gateway call somebody, and wait until the call is over.

    Exit code 0 if somebody answered, 1 if nobody did, 2 if the gateway does not make the call.
    """
    pairs = [one.partition("=") for one in metadata or ()]
    if not all(name and equals for name, equals, _ in pairs):
        raise typer.BadParameter("NAME=VALUE is expected", param_hint="--metadata")
    order = {"to": to, "caller": caller, "metadata": {name: value for name, _, value in pairs}, "ring_seconds": ring}
    if agent is not None:
        order["agent_id"] = agent
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        body = asyncio.run(_dial(url, headers, order, quiet=as_json))
    except OSError as error:
        body = {"code": "unreachable", "message": f"cannot reach {url}: {error}"}
    if as_json:
        typer.echo(json.dumps(body, indent=2))
    elif "code" in body:
        typer.echo(body["message"], err=True)
    raise typer.Exit(2 if "code" in body else int(body["outcome"] != "answered"))


async def _dial(url: str, headers: dict[str, str], order: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Return the call as it ended, or the gateway's error."""
    import aiohttp

    said = ""
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=10)) as http:
        async with http.post(f"{url}/calls", json=order) as answer:
            body: dict[str, Any] = await answer.json()
            if answer.status != 202:
                return body
        while True:
            if body["status"] != said and not quiet:
                said = body["status"]
                status = f" ({body['sip_status']})" if body["sip_status"] else ""
                typer.echo(said if said != "ended" else f"ended: {body['outcome']}{status}")
            if body["status"] == "ended":
                return body
            await asyncio.sleep(_POLL_S)
            async with http.get(f"{url}/calls/{body['call_id']}") as answer:
                body = await answer.json()
