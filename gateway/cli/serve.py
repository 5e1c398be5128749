"""`fastagent serve`: the gateway in the foreground, with signals."""

import asyncio
import signal
import sys
from typing import Annotated, Any

import typer
from pydantic import ValidationError


def serve(
    port: Annotated[int | None, typer.Option(help="In place of PORT.")] = None,
    host: Annotated[str | None, typer.Option(help="In place of HOST.")] = None,
) -> None:
    """Serve calls until told to stop.

    SIGTERM drains: new calls are refused, live ones end by themselves within FASTAGENT_DRAIN_SECONDS. Ctrl-C, or a
    second signal, says goodbye to live calls now.
    """
    from fastagent.gateway import logs
    from fastagent.gateway.settings import Settings

    given = {name: value for name, value in (("PORT", port), ("HOST", host)) if value is not None}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        for fault in error.errors():
            where = "".join(f"{one}: " for one in fault["loc"])
            typer.echo(f"fastagent: {where}{fault['msg'].removeprefix('Value error, ')}", err=True)
        raise typer.Exit(2) from None
    logs.configure(settings.log_level, settings.log_format, settings.log_pii)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        raise typer.Exit(runner.run(_serve(settings)))


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(settings: Any) -> int:
    from fastagent.gateway.app import Gateway

    try:
        gateway = Gateway(settings)
        await gateway.start()
    except (OSError, ValueError) as error:
        print(f"fastagent: cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    if gateway.keys.made:
        # On standard output, where nothing else goes: a log must not hold it.
        print(f"API key of this run, for requests that are not local: {gateway.keys.made}", flush=True)  # noqa: T201
    loop = asyncio.get_running_loop()
    stops: set[asyncio.Task[None]] = set()

    def stop(urgent: bool) -> None:
        again = bool(stops)
        stops.add(asyncio.create_task(gateway.stop(0 if urgent or again else None)))

    loop.add_signal_handler(signal.SIGTERM, stop, False)
    loop.add_signal_handler(signal.SIGINT, stop, True)
    await gateway.wait_closed()
    await asyncio.gather(*stops)
    return 0
