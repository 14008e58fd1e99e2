"""`bmsota-cloud`: set up and run the platform, manage accounts and projects, register vehicles, back up, restore, check, receive mails.

`release`, `task` and `export` speak to a running platform (`remote_commands`); all others work in the data folder.

Exit codes: 0 done, or stopped by Ctrl-C, SIGTERM or SIGHUP; 1 refused (the account exists, a key or the configuration file is wrong, an address
is taken), with lines that say why; 2 usage error.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress

from bmsota import __version__
from bmsota.errors import BmsotaError, ConfigurationError
from bmsota_cloud.backup import back_up, check_data
from bmsota_cloud.backup import restore as restore_backup
from bmsota_cloud.clock import wall_clock
from bmsota_cloud.config import REPORT_KEEP_DAYS_MIN, load_config, origin, proxy, tiles
from bmsota_cloud.config import gateway_name as gateway_name_of
from bmsota_cloud.domain.accounts import Role, Scope, ScopeKind
from bmsota_cloud.domain.projects import ApprovalWay
from bmsota_cloud.keys import load_keys
from bmsota_cloud.link_keys import is_readable_by_others, load_link_keys, load_report_verifier
from bmsota_cloud.mail import MailSink, SmtpTarget
from bmsota_cloud.platform import Cloud, build_cloud
from bmsota_cloud.platform_logins import load_platform_logins
from bmsota_cloud.remote_commands import export_app, release_app, task_app
from bmsota_cloud.services import LINKS_MAX, LinkKeys, PlatformKeys, PlatformSettings
from bmsota_cloud.tls import server_context
from bmsota_cloud.vehicle_file import load_vehicles
from bmsota_cloud.wiring import AddressError, RunningCloud, ServeOptions, tune_collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["main"]

_PASSWORD_VARIABLE = "BMSOTA_CLOUD_PASSWORD"  # noqa: S105 - the name of a variable, not a password
_SMTP_PASSWORD_VARIABLE = "BMSOTA_CLOUD_SMTP_PASSWORD"  # noqa: S105
_MIB = 1024 * 1024
_DEFAULTS = PlatformSettings()
_PORT_OPTIONS = {"web": "--host, --http-port", "gateway": "--gateway-host, --gateway-port"}
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not listened on

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

vehicle_app = typer.Typer(no_args_is_help=True, help="Vehicles.")
app.add_typer(vehicle_app, name="vehicle")

user_app = typer.Typer(no_args_is_help=True, help="Accounts in the data folder.")
project_app = typer.Typer(no_args_is_help=True, help="Projects in the data folder.")
for name, commands in (("user", user_app), ("project", project_app), ("release", release_app), ("task", task_app)):
    app.add_typer(commands, name=name)
app.command("export")(export_app)

_DATA = "Data"
_WEB = "Pages and APIs"
_GATEWAY = "Gateway"
_TRUST = "Releases"
_MAIL = "Mail"


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"bmsota-cloud {__version__}")
        raise typer.Exit


@app.callback()
def bmsota_cloud(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The reference battery data cloud platform.

    Exit codes: 0 done, or stopped by Ctrl-C, SIGTERM or SIGHUP; 1 refused, with lines that say why and what to do; 2 usage error.
    """


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Before the other options are looked at: what the file holds are their defaults."""
    if path is not None:
        try:
            values = load_config(path)
        except ConfigurationError as error:
            _refuse(error)
        known = {parameter.name for parameter in context.command.params}
        context.default_map = {name: value for name, value in values.items() if name in known}
    return path


def _as_origin(value: str) -> str:
    return _checked(origin, value) if value else value


def _as_origins(values: list[str] | None) -> list[str]:
    return [_checked(origin, value) for value in values or []]


def _as_proxies(values: list[str] | None) -> list[str]:
    return [_checked(proxy, value) for value in values or []]


def _as_tiles(value: str) -> str:
    return _checked(tiles, value) if value else value


def _as_gateway_name(value: str) -> str:
    return _checked(gateway_name_of, value) if value else value


def _checked(check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _option(panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **more)


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_read_config,
        is_eager=True,
        rich_help_panel=_DATA,
        help="Read options from this TOML file; those on the command line win.",
    ),
]
DataFolder = Annotated[
    Path,
    typer.Option(
        "--data", rich_help_panel=_DATA, help="Keep databases and keys in this folder; it is created if missing."
    ),
]
Database = Annotated[str, _option(_DATA, help="Use this database (SQLAlchemy URL) instead of SQLite in --data.")]
TelemetryDatabase = Annotated[
    str, _option(_DATA, help="Keep telemetry in this database (SQLAlchemy URL) instead of SQLite in --data.")
]


class ReportHash(StrEnum):
    """Hashes of 2025 report signatures."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"


class ReportPadding(StrEnum):
    """Paddings of RSA signatures."""

    PKCS1V15 = "pkcs1v15"
    PSS = "pss"


@app.command()
def serve(
    data: DataFolder = Path("cloud-data"),
    config: ConfigFile = None,
    database: Database = "",
    telemetry_database: TelemetryDatabase = "",
    report_keep_days: Annotated[
        int,
        _option(_DATA, help="Delete reports this many days after they arrived.", min=REPORT_KEEP_DAYS_MIN, max=36_500),
    ] = _DEFAULTS.report_keep_s // 86_400,
    event_keep_days: Annotated[
        int,
        _option(
            _DATA,
            help="Delete faults, alarms and other events this many days after they arrived, but not before reports.",
            min=REPORT_KEEP_DAYS_MIN,
            max=36_500,
        ),
    ] = _DEFAULTS.event_keep_s // 86_400,
    report_compact_after_hours: Annotated[
        int,
        _option(
            _DATA, help="Compress a day of reports when it has been over for this long; 0: never.", min=0, max=8760
        ),
    ] = _DEFAULTS.report_compact_after_s // 3600,
    export_keep_days: Annotated[
        int, _option(_DATA, help="Delete files of exports after this many days.", min=1, max=365)
    ] = _DEFAULTS.export_keep_s // 86_400,
    export_max_mib: Annotated[
        int, _option(_DATA, help="Refuse larger files of exports, in MiB.", min=1, max=1024 * 1024)
    ] = _DEFAULTS.export_size_bytes_max // _MIB,
    host: Annotated[str, _option(_WEB, help="Listen on this address.")] = "127.0.0.1",
    http_port: Annotated[
        int, _option(_WEB, help="Serve the REST API, the device API and the pages on this port.", min=0, max=65535)
    ] = 8080,
    web_cert: Annotated[
        Path | None, _option(_WEB, help="Serve HTTPS with this certificate and its chain (PEM); needs --web-key.")
    ] = None,
    web_key: Annotated[Path | None, _option(_WEB, help="Private key of --web-cert (PEM, without a password).")] = None,
    public_url: Annotated[
        str,
        _option(
            _WEB,
            callback=_as_origin,
            help="Use this URL in instructions and mails, instead of --host and --http-port.",
        ),
    ] = "",
    trusted_proxy: Annotated[
        list[str] | None,
        _option(
            _WEB,
            callback=_as_proxies,
            help="Take the visitor's address from X-Forwarded-For when it comes from this address or network; repeatable.",
        ),
    ] = None,
    device_url_alias: Annotated[
        list[str] | None,
        _option(
            _WEB,
            callback=_as_origins,
            help="Let units log in and download images at this URL too, beside --public-url; repeatable.",
        ),
    ] = None,
    accept_proof_without_origin: Annotated[
        bool,
        _option(
            _WEB,
            "--accept-proof-without-origin/--no-accept-proof-without-origin",
            help="Let units with older firmware log in, which do not sign the address they log in at.",
        ),
    ] = _DEFAULTS.accepts_proof_without_origin,
    upload_max_mib: Annotated[
        int, _option(_WEB, help="Refuse release uploads larger than this, in MiB.", min=1, max=4096)
    ] = _DEFAULTS.upload_size_bytes_max // _MIB,
    map_tiles: Annotated[
        str,
        _option(
            _WEB,
            callback=_as_tiles,
            help="Show this base map, as https://host/{z}/{x}/{y}.png, instead of the built-in outlines.",
        ),
    ] = "",
    map_attribution: Annotated[str, _option(_WEB, help="Name the source of --map-tiles on the map.")] = "",
    gateway_host: Annotated[str, _option(_GATEWAY, help="Accept links on this address instead of --host.")] = "",
    gateway_port: Annotated[
        int, _option(_GATEWAY, help="Accept GB/T 32960 links on this port.", min=0, max=65535)
    ] = 32960,
    gateway_name: Annotated[
        str,
        _option(
            _GATEWAY,
            callback=_as_gateway_name,
            help="Write reports under this name, of its own for every process on the same data. Default: the machine's name, with -2, -3"
            " and so on for further processes.",
        ),
    ] = "",
    gateway_cert: Annotated[
        Path | None,
        _option(_GATEWAY, help="Accept links over TLS with this certificate and its chain (PEM); needs --gateway-key."),
    ] = None,
    gateway_key: Annotated[
        Path | None, _option(_GATEWAY, help="Private key of --gateway-cert (PEM, without a password).")
    ] = None,
    links_max: Annotated[
        int, _option(_GATEWAY, help="Accept this many links at once.", min=1, max=LINKS_MAX)
    ] = _DEFAULTS.links_max,
    heartbeat_window_s: Annotated[
        int, _option(_GATEWAY, help="Close a link that has been silent for this long.", min=10, max=86_400)
    ] = _DEFAULTS.heartbeat_window_s,
    login_timeout_s: Annotated[
        int, _option(_GATEWAY, help="Close a link that has not logged in by then.", min=10, max=86_400)
    ] = _DEFAULTS.login_timeout_s,
    acknowledge_reports: Annotated[
        bool,
        _option(
            _GATEWAY,
            "--acknowledge-reports/--no-acknowledge-reports",
            help="Answer correct reports too, not only wrong ones.",
        ),
    ] = _DEFAULTS.acknowledge_reports,
    link_keys: Annotated[
        Path | None, _option(_GATEWAY, help="Decipher data units with the AES and SM4 keys in this TOML file.")
    ] = None,
    platform_logins: Annotated[
        Path | None, _option(_GATEWAY, help="Let the other platforms in this TOML file log in, for many vehicles each.")
    ] = None,
    report_key: Annotated[
        Path | None,
        _option(
            _GATEWAY,
            help="Accept reports of the 2025 edition only if signed with this key (public, PEM); needs --report-hash.",
        ),
    ] = None,
    report_hash: Annotated[ReportHash | None, _option(_GATEWAY, help="Hash of the signatures of --report-key.")] = None,
    report_padding: Annotated[
        ReportPadding | None, _option(_GATEWAY, help="Padding of the signatures, if --report-key is an RSA key.")
    ] = None,
    manifest_key: Annotated[
        list[Path] | None,
        _option(_TRUST, help="Accept release manifests signed with this public key (PEM); repeatable."),
    ] = None,
    image_key: Annotated[
        list[Path] | None, _option(_TRUST, help="Accept images signed with this public key (PEM); repeatable.")
    ] = None,
    smtp_host: Annotated[
        str,
        _option(
            _MAIL,
            help="Send mails through this server. Without it, they are written as .eml files to the folder mail in --data.",
        ),
    ] = "",
    smtp_port: Annotated[int, _option(_MAIL, help="Port of the mail server.", min=1, max=65535)] = 25,
    smtp_user: Annotated[
        str,
        _option(_MAIL, help=f"Log in to the mail server as this user, with the password in {_SMTP_PASSWORD_VARIABLE}."),
    ] = "",
    smtp_tls: Annotated[
        bool, _option(_MAIL, "--smtp-tls/--no-smtp-tls", help="Use TLS from the first byte (port 465).")
    ] = False,
) -> None:
    """Run gateway, device API, REST API and pages until Ctrl-C."""
    del config  # `_read_config` has read it.
    web_tls = _pair("--web-cert", web_cert, "--web-key", web_key)
    gateway_tls = _pair("--gateway-cert", gateway_cert, "--gateway-key", gateway_key)
    if report_key is not None and report_hash is None:
        raise typer.BadParameter("--report-key needs --report-hash")
    if report_key is None and (report_hash or report_padding):
        raise typer.BadParameter("--report-hash and --report-padding need --report-key")
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
    try:
        keys = load_keys(data, manifest_keys=manifest_key or [], image_keys=image_key or [])
        settings = PlatformSettings(
            device_url_aliases=tuple(device_url_alias or ()),
            accepts_proof_without_origin=accept_proof_without_origin,
            links_max=links_max,
            heartbeat_window_s=heartbeat_window_s,
            login_timeout_s=login_timeout_s,
            acknowledge_reports=acknowledge_reports,
            report_keep_s=report_keep_days * 86_400,
            event_keep_s=event_keep_days * 86_400,
            report_compact_after_s=report_compact_after_hours * 3600,
            upload_size_bytes_max=upload_max_mib * _MIB,
            map_tiles=map_tiles,
            map_attribution=map_attribution,
            export_keep_s=export_keep_days * 86_400,
            export_size_bytes_max=export_max_mib * _MIB,
            link_keys=LinkKeys() if link_keys is None else load_link_keys(link_keys),
            platform_peers={} if platform_logins is None else load_platform_logins(platform_logins),
            report_verifier=None
            if report_key is None or report_hash is None
            else load_report_verifier(
                report_key, hash_name=report_hash.value, padding_name=report_padding and report_padding.value
            ),
        )
        if public_url:
            settings = replace(settings, device_url=public_url, pages_url=public_url)
        if web_tls is not None:
            # Looked at here, where it can be said what is wrong; the web server reads the files by itself.
            server_context(*web_tls)
        options = ServeOptions(
            keys=keys,
            data_dir=data,
            database_url=database,
            telemetry_url=telemetry_database,
            settings=settings,
            keeps_urls=bool(public_url),
            host=host,
            http_port=http_port,
            web_tls=web_tls,
            trusted_proxies=tuple(trusted_proxy or ()),
            gateway_host=gateway_host,
            gateway_port=gateway_port,
            gateway_name=gateway_name,
            ssl_context=None if gateway_tls is None else server_context(*gateway_tls),
            smtp=target,
            mail_folder=data / "mail",
        )
        for note in _notes(options, [path for path in (link_keys, platform_logins) if path is not None]):
            typer.echo(f"note: {note}", err=True)
        asyncio.run(_serve(options))
    except AddressError as error:
        _refuse(error, more=f" ({_PORT_OPTIONS[error.door]})")
    except (BmsotaError, OSError) as error:
        _refuse(error)


def _pair(cert_name: str, cert: Path | None, key_name: str, key: Path | None) -> tuple[Path, Path] | None:
    if (cert is None) != (key is None):
        raise typer.BadParameter(f"{cert_name} and {key_name} belong together: pass both")
    return None if cert is None or key is None else (cert, key)


def _notes(options: ServeOptions, secret_files: Sequence[Path]) -> Iterator[str]:
    """What is allowed and seldom meant."""
    if not options.keys.manifest_public_keys or not options.keys.image_public_keys:
        yield "without --manifest-key and --image-key no release can be uploaded"
    if options.host in _EVERYWHERE and not options.keeps_urls:
        yield f"units and mails are told the address {options.host}, which leads nowhere; pass --public-url"
    for path in secret_files:
        if is_readable_by_others(path):
            yield f"other users of this machine can read the keys in {path}; set its mode to 600"


def _ending_signals() -> list[signal.Signals]:
    """Ctrl-C, what service managers send, and a closed terminal, as far as this system has them; not what `nohup` has ignored."""
    numbers = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__]
    return [number for number in numbers if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN]


async def _serve(options: ServeOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _ending_signals():
        # Windows has no signal handlers in its loop; there Ctrl-C ends asyncio.run by itself.
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    running = await RunningCloud.start(options)
    tune_collector()
    try:
        typer.echo(f"pages and APIs  {running.http_url}")
        scheme = "tcp" if options.ssl_context is None else "tls"
        typer.echo(f"gateway         {scheme}://{running.gateway_host}:{running.gateway_port}")
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


@user_app.command("add")
@app.command()
def create_account(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Login name: a-z 0-9 . _ -")],
    email: Annotated[
        str, typer.Argument(metavar="EMAIL", help="Mail address; an auditor's approval codes are sent there.")
    ],
    role: Annotated[Role, typer.Option(help="Role of the account.")] = Role.VIEWER,
    project: Annotated[
        list[str] | None, typer.Option(help="Show it the vehicles of this project only; may be given several times.")
    ] = None,
    customer: Annotated[
        str, typer.Option(help="Show it the vehicles of this customer only, with --role customer.")
    ] = "",
    data: DataFolder = Path("cloud-data"),
    config: ConfigFile = None,
    database: Database = "",
) -> None:
    """Create an account. The password is read from BMSOTA_CLOUD_PASSWORD, or prompted for."""
    del config  # `_read_config` has read it.
    password = os.environ.get(_PASSWORD_VARIABLE) or typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    try:
        # No key is needed for this, and none is made.
        cloud = build_cloud(keys=_no_keys(), data_dir=data, database_url=database)
        try:
            account = cloud.services.accounts.create(
                name=name, email=email, role=role, password=password, scope=_scope(project, customer), now=wall_clock()
            )
        finally:
            cloud.close()
    except (BmsotaError, OSError) as error:
        _refuse(error)
    sees = "" if account.scope.is_everything else f", sees {account.scope}"
    typer.echo(f"created {name} ({role}){sees}")


@app.command()
def init(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Write this configuration file.")] = Path(
        "bmsota-cloud.toml"
    ),
    admin: Annotated[str, typer.Option(help="Login name of the first administrator.")] = "admin",
    email: Annotated[str, typer.Option(help="Mail address of the first administrator.")] = "admin@localhost",
    public_url: Annotated[
        str, typer.Option(callback=_as_origin, help="Address of the platform for units and mails.")
    ] = "",
    data: Annotated[Path, typer.Option("--data", help="Keep databases and keys in this folder.")] = Path("cloud-data"),
) -> None:
    """Set up a platform: configuration file, data folder with its key, first administrator.

    The password is read from BMSOTA_CLOUD_PASSWORD, or prompted for. Nothing that is there already is changed.
    """
    if config.exists():
        _refuse(ConfigurationError(f"{config} is there already; nothing was changed"))
    password = os.environ.get(_PASSWORD_VARIABLE) or typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    lines = [f"data = {_toml(os.path.relpath(data, config.parent))}"]
    lines += [f"public-url = {_toml(public_url)}"] if public_url else []
    lines += ["# Releases that may be uploaded: the public keys that sign them.", '# manifest-key = ["release.pem"]']
    lines += ['# image-key = ["image.pem"]']
    try:
        cloud = build_cloud(keys=load_keys(data, manifest_keys=[], image_keys=[]), data_dir=data)
        try:
            cloud.services.accounts.create(
                name=admin, email=email, role=Role.ADMINISTRATOR, password=password, now=wall_clock()
            )
        finally:
            cloud.close()
        with config.open("x", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except (BmsotaError, OSError) as error:
        _refuse(error)
    typer.echo(f"created {data}, {config} and the administrator {admin}")
    typer.echo(f"next: bmsota-cloud serve --config {config}")


def _toml(text: str) -> str:
    """A string of TOML; JSON's are."""
    return json.dumps(text, ensure_ascii=False)


AccountName = Annotated[str, typer.Argument(metavar="NAME", help="Login name of the account.")]


@user_app.command("disable")
def user_disable(
    name: AccountName, data: DataFolder = Path("cloud-data"), config: ConfigFile = None, database: Database = ""
) -> None:
    """End the sessions of an account, and let it open no other; its API tokens are dead meanwhile."""
    del config  # `_read_config` has read it.
    with _platform_in(data, database) as cloud:
        cloud.services.accounts.disable(name, by=None, now=wall_clock())
    typer.echo(f"disabled {name}")


@user_app.command("enable")
def user_enable(
    name: AccountName, data: DataFolder = Path("cloud-data"), config: ConfigFile = None, database: Database = ""
) -> None:
    """Let a disabled account log in again."""
    del config
    with _platform_in(data, database) as cloud:
        cloud.services.accounts.enable(name, by=None, now=wall_clock())
    typer.echo(f"enabled {name}")


@user_app.command("password")
def user_password(
    name: AccountName, data: DataFolder = Path("cloud-data"), config: ConfigFile = None, database: Database = ""
) -> None:
    """Give an account another password, and end its sessions and API tokens.

    The password is read from BMSOTA_CLOUD_PASSWORD, or prompted for.
    """
    del config
    password = os.environ.get(_PASSWORD_VARIABLE) or typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    with _platform_in(data, database) as cloud:
        cloud.services.accounts.reset(name, password=password, by=None, now=wall_clock())
    typer.echo(f"{name} has another password")


@project_app.command("set")
def project_set(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the project.")],
    audit_mailbox: Annotated[str, typer.Option(help="Send the codes of tasks to this mail address.")],
    approval: Annotated[ApprovalWay, typer.Option(help="Who types the code.")] = ApprovalWay.AUDIT_MAILBOX,
    starter: Annotated[
        list[str] | None, typer.Option(help="Let only this account start tasks; may be given several times.")
    ] = None,
    data: DataFolder = Path("cloud-data"),
    config: ConfigFile = None,
    database: Database = "",
) -> None:
    """Set how the tasks of a project are approved. Codes that were mailed before are void."""
    del config
    with _platform_in(data, database) as cloud:
        cloud.services.projects.configure(
            name, audit_mailbox=audit_mailbox, approval=approval, starters=starter or (), by=None, now=wall_clock()
        )
    typer.echo(f"project {name}: codes go to {audit_mailbox}")


@contextmanager
def _platform_in(data: Path, database: str) -> Iterator[Cloud]:
    """The platform in the data folder, which must be there; no key is needed, and none is made."""
    if not database and not (data / "platform.sqlite").exists():
        _refuse(
            ConfigurationError(
                f"no platform in {data}; set one up with bmsota-cloud init, or name its folder with --data"
            )
        )
    try:
        cloud = build_cloud(keys=_no_keys(), data_dir=data, database_url=database)
        try:
            yield cloud
        finally:
            cloud.close()
    except (BmsotaError, OSError) as error:
        _refuse(error)


@vehicle_app.command("import")
def vehicle_import(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV with the columns vin, series, project, hwid, device_public_key (base64 or hexadecimal), or as bmsota-sim vehicles --csv writes it.",
        ),
    ],
    project: Annotated[str, typer.Option(help="Project of the vehicles that have none in the file.")] = "",
    data: DataFolder = Path("cloud-data"),
    config: ConfigFile = None,
    database: Database = "",
) -> None:
    """Register the vehicles in a CSV file; those that are registered already with the same values are left as they are.

    All are looked at first: if one cannot be registered, none is. The platform may run meanwhile.
    """
    del config  # `_read_config` has read it.
    try:
        entries = load_vehicles(file, project=project)
        cloud = build_cloud(keys=_no_keys(), data_dir=data, database_url=database)
        try:
            console = Console(stderr=True)
            with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
                bar = bars.add_task("registering", total=len(entries))
                result = cloud.services.vehicle_import.run(
                    entries, now=wall_clock(), progress=lambda done: bars.update(bar, completed=done)
                )
        finally:
            cloud.close()
    except (BmsotaError, OSError) as error:
        _refuse(error)
    there = f", {result.present:,} were registered already" if result.present else ""
    there += f", the equipment data of {result.changed:,} was changed" if result.changed else ""
    typer.echo(f"registered {result.registered:,} vehicles{there}")


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Make the backup in this new folder.")],
    data: DataFolder = Path("cloud-data"),
    config: ConfigFile = None,
    database: Database = "",
    telemetry_database: TelemetryDatabase = "",
) -> None:
    """Copy databases, reports and keys in --data to FOLDER, while the platform runs or not.

    The copy has the order key: keep it as safe as the original. A database on PostgreSQL is not in it; use pg_dump.
    """
    del config  # `_read_config` has read it.
    try:
        with _file_names("copying") as progress:
            made = back_up(data, folder, now=wall_clock(), progress=progress)
    except (BmsotaError, OSError) as error:
        _refuse(error)
    typer.echo(f"backed up {made.files} files, {made.size_bytes / _MIB:,.1f} MiB, to {folder}")
    for name, url in (("--database", database), ("--telemetry-database", telemetry_database)):
        if url and not url.startswith("sqlite"):
            typer.echo(f"note: the database of {name} is not in the backup; use its own tools, as pg_dump", err=True)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that `bmsota-cloud backup` made.")],
    data: DataFolder = Path("cloud-data"),
    config: ConfigFile = None,
) -> None:
    """Make the data folder from a backup, after comparing every file with its list. --data must be new or empty."""
    del config
    try:
        with _file_names("restoring") as progress:
            made = restore_backup(folder, data, progress=progress)
    except (BmsotaError, OSError) as error:
        _refuse(error)
    typer.echo(f"restored {made.files} files, {made.size_bytes / _MIB:,.1f} MiB, made at {made.made_at}, to {data}")


@app.command()
def check(data: DataFolder = Path("cloud-data"), config: ConfigFile = None) -> None:
    """Look for damage in every database in --data, while the platform runs or not. Exit code 1 if there is any."""
    del config
    is_sound, count, size_bytes = True, 0, 0
    try:
        with _file_names("checking") as progress:
            for found in check_data(data, progress=progress):
                count, size_bytes = count + 1, size_bytes + found.size_bytes
                for fault in found.faults:
                    is_sound = False
                    typer.echo(f"bmsota-cloud: {data / found.name}: {fault}", err=True)
    except (BmsotaError, OSError) as error:
        _refuse(error)
    if not is_sound:
        typer.echo(
            "bmsota-cloud: stop the platform, move the damaged folder away and restore a backup (bmsota-cloud restore)",
            err=True,
        )
        raise typer.Exit(1)
    typer.echo(f"{count} databases, {size_bytes / _MIB:,.1f} MiB: no damage found")


@contextmanager
def _file_names(doing: str) -> Iterator[Callable[[str], None]]:
    """On a terminal, a line with the file that is being worked on."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _name: None
        return
    with console.status(doing) as status:
        yield lambda name: status.update(f"{doing} {name}")


@app.command()
def mail_sink(
    host: Annotated[str, typer.Option(help="Listen on this address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Listen on this port.", min=0, max=65535)] = 2525,
    folder: Annotated[Path, typer.Option(help="Write mails to this folder as .eml files.")] = Path("mails"),
) -> None:
    """Receive mails and keep them as files until Ctrl-C; nothing is relayed."""
    stop = Event()
    for number in _ending_signals():
        signal.signal(number, lambda *_: stop.set())
    sink = MailSink(host=host, port=port, folder=folder)
    try:
        sink.start()
    except OSError as error:
        _refuse(error)
    typer.echo(f"mail sink       smtp://{sink.host}:{sink.port} -> {folder}")
    stop.wait()
    sink.stop()


def _scope(projects: list[str] | None, customer: str) -> Scope:
    if customer:
        return Scope(kind=ScopeKind.CUSTOMER, projects=tuple(projects or ()), customer=customer)
    return Scope(kind=ScopeKind.PROJECTS, projects=tuple(sorted(set(projects)))) if projects else Scope()


def _no_keys() -> PlatformKeys:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - for this only

    return PlatformKeys(order_signing_key=Ed25519PrivateKey.generate(), manifest_public_keys=(), image_public_keys=())


def _refuse(error: Exception, *, more: str = "") -> NoReturn:
    for line in f"{error}{more}".splitlines():
        typer.echo(f"bmsota-cloud: {line}", err=True)
    raise typer.Exit(1) from error


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
