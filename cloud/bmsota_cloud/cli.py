"""`bmsota-cloud`: run the platform, create an account, receive mails.

Exit codes: 0 done; 1 refused (the account exists, a key is wrong, an address is taken), with one line that says why; 2 usage error.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Annotated, NoReturn

import typer

from bmsota.errors import BmsotaError
from bmsota_cloud.clock import wall_clock
from bmsota_cloud.domain.accounts import Role
from bmsota_cloud.keys import load_keys, sample_key_warning
from bmsota_cloud.mail import MailSink, SmtpTarget
from bmsota_cloud.platform import build_cloud
from bmsota_cloud.services import PlatformKeys, PlatformSettings
from bmsota_cloud.wiring import RunningCloud, ServeOptions, tune_collector

__all__ = ["main"]

_PASSWORD_VARIABLE = "BMSOTA_CLOUD_PASSWORD"  # noqa: S105 - the name of a variable, not a password
_SMTP_PASSWORD_VARIABLE = "BMSOTA_CLOUD_SMTP_PASSWORD"  # noqa: S105

app = typer.Typer(
    help="The reference battery data cloud platform. Exit codes: 0 done, 1 refused, 2 usage error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

DataFolder = Annotated[
    Path, typer.Option("--data", help="Keep databases and keys in this folder; it is created if missing.")
]
Host = Annotated[str, typer.Option(help="Listen on this address.")]


@app.command()
def serve(
    data: DataFolder = Path("cloud-data"),
    host: Host = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option(help="Serve the REST API, the device API and the pages on this port.", min=0, max=65535)
    ] = 8080,
    gateway_port: Annotated[int, typer.Option(help="Accept GB/T 32960 links on this port.", min=0, max=65535)] = 32960,
    manifest_key: Annotated[
        list[Path] | None, typer.Option(help="Accept release manifests signed with this public key (PEM); repeatable.")
    ] = None,
    image_key: Annotated[
        list[Path] | None, typer.Option(help="Accept images signed with this public key (PEM); repeatable.")
    ] = None,
    public_url: Annotated[
        str, typer.Option(help="Use this URL in instructions and mails, instead of --host and --http-port.")
    ] = "",
    database: Annotated[str, typer.Option(help="Use this database (SQLAlchemy URL) instead of SQLite in --data.")] = "",
    telemetry_database: Annotated[
        str, typer.Option(help="Keep telemetry in this database (SQLAlchemy URL) instead of SQLite in --data.")
    ] = "",
    smtp_host: Annotated[
        str,
        typer.Option(
            help="Send mails through this server. Without it, they are written as .eml files to the folder mail in --data."
        ),
    ] = "",
    smtp_port: Annotated[int, typer.Option(help="Port of the mail server.", min=1, max=65535)] = 25,
    smtp_user: Annotated[
        str,
        typer.Option(help=f"Log in to the mail server as this user, with the password in {_SMTP_PASSWORD_VARIABLE}."),
    ] = "",
    smtp_tls: Annotated[bool, typer.Option("--smtp-tls", help="Use TLS from the first byte (port 465).")] = False,
) -> None:
    """Run gateway, device API, REST API and pages until Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # They log every step; only what goes wrong is of interest.
    for name in ("alembic", "mail.log"):
        logging.getLogger(name).setLevel(logging.WARNING)
    target = None
    if smtp_host:
        target = SmtpTarget(
            host=smtp_host,
            port=smtp_port,
            user=smtp_user or None,
            password=os.environ.get(_SMTP_PASSWORD_VARIABLE) if smtp_user else None,
            use_tls=smtp_tls,
        )
    settings = PlatformSettings()
    if public_url:
        settings = PlatformSettings(device_url=public_url, pages_url=public_url)
    try:
        keys = load_keys(data, manifest_keys=manifest_key or [], image_keys=image_key or [])
        options = ServeOptions(
            keys=keys,
            data_dir=data,
            database_url=database,
            telemetry_url=telemetry_database,
            settings=settings,
            keeps_urls=bool(public_url),
            host=host,
            http_port=http_port,
            gateway_port=gateway_port,
            smtp=target,
            mail_folder=data / "mail",
        )
        if not keys.manifest_public_keys or not keys.image_public_keys:
            typer.echo("note: without --manifest-key and --image-key no release can be uploaded", err=True)
        asyncio.run(_serve(options))
    except (BmsotaError, OSError) as error:
        _refuse(error)


async def _serve(options: ServeOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Windows has no signal handlers in its loop; there Ctrl-C ends asyncio.run by itself.
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    running = await RunningCloud.start(options)
    tune_collector()
    try:
        if warning := sample_key_warning(options.keys):
            typer.echo(f"warning         {warning}")
        typer.echo(f"pages and APIs  {running.http_url}")
        typer.echo(f"gateway         tcp://{running.host}:{running.gateway_port}")
        if running.mail_sink is not None:
            typer.echo(f"mails           {options.mail_folder}")
        stopping = asyncio.ensure_future(stop.wait())
        working = asyncio.ensure_future(running.wait())
        await asyncio.wait((stopping, working), return_when=asyncio.FIRST_COMPLETED)
        is_broken = working.done()
        stopping.cancel()
        working.cancel()
    finally:
        await running.stop()
    if is_broken:
        raise OSError("a part of the platform ended unexpectedly; see the log")


@app.command()
def create_account(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Login name: a-z 0-9 . _ -")],
    email: Annotated[
        str, typer.Argument(metavar="EMAIL", help="Mail address; an auditor's approval codes are sent there.")
    ],
    role: Annotated[Role, typer.Option(help="Role of the account.")] = Role.VIEWER,
    data: DataFolder = Path("cloud-data"),
    database: Annotated[str, typer.Option(help="Use this database (SQLAlchemy URL) instead of SQLite in --data.")] = "",
) -> None:
    """Create an account. The password is read from BMSOTA_CLOUD_PASSWORD, or prompted for."""
    password = os.environ.get(_PASSWORD_VARIABLE) or typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    try:
        # No key is needed for this, and none is made.
        cloud = build_cloud(keys=_no_keys(), data_dir=data, database_url=database)
        try:
            cloud.services.accounts.create(name=name, email=email, role=role, password=password, now=wall_clock())
        finally:
            cloud.close()
    except (BmsotaError, OSError) as error:
        _refuse(error)
    typer.echo(f"created {name} ({role})")


@app.command()
def mail_sink(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Listen on this port.", min=0, max=65535)] = 2525,
    folder: Annotated[Path, typer.Option(help="Write mails to this folder as .eml files.")] = Path("mails"),
) -> None:
    """Receive mails and keep them as files until Ctrl-C; nothing is relayed."""
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    sink = MailSink(host=host, port=port, folder=folder)
    try:
        sink.start()
    except OSError as error:
        _refuse(error)
    typer.echo(f"mail sink       smtp://{sink.host}:{sink.port} -> {folder}")
    stop.wait()
    sink.stop()


def _no_keys() -> PlatformKeys:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - for this only

    return PlatformKeys(order_signing_key=Ed25519PrivateKey.generate(), manifest_public_keys=(), image_public_keys=())


def _refuse(error: Exception) -> NoReturn:
    typer.echo(f"bmsota-cloud: {error}", err=True)
    raise typer.Exit(1) from error


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
