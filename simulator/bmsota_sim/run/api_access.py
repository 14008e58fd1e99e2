"""How a run reaches a platform's REST API: what the command line and the environment say, checked before anything is opened.

Passwords come from the environment alone: a command line is seen by other users of the machine, and is kept in `run.json`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from bmsota.errors import ConfigurationError
from bmsota_sim.run.approval_codes import CommandCodes, MailedCodes, host_and_port
from bmsota_sim.run.scenario_task import ApiAccount, ApiAccounts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bmsota_sim.run.approval_codes import CodeSource
    from bmsota_sim.run.model import FleetScenario

__all__ = ["PASSWORD_VARIABLES", "ApiAccess", "api_access"]

PASSWORD_VARIABLES = {
    "--api-user": "BMSOTA_SIM_API_PASSWORD",
    "--api-admin": "BMSOTA_SIM_API_ADMIN_PASSWORD",
    "--api-auditor": "BMSOTA_SIM_API_AUDITOR_PASSWORD",
}
"""The environment variable with the password of the account that an option names."""


class ApiAccess(NamedTuple):
    """Everything that is needed."""

    url: str
    """Without a slash at its end."""
    accounts: ApiAccounts
    mail: tuple[str, int] | None
    code_command: str | None

    @property
    def origin(self) -> str:
        """Scheme, host and port: where the units expect the platform."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    async def open_codes(self) -> CodeSource | None:
        """Where the code comes from; an SMTP server listens from now on. None: nowhere.

        Raises:
            ConfigurationError: the address cannot be used, or the command is none.
        """
        if self.mail is not None:
            mails = MailedCodes(*self.mail)
            await mails.open()
            return mails
        return None if self.code_command is None else CommandCodes(self.code_command)


def api_access(
    scenario: FleetScenario,
    *,
    name: str,
    api: str | None,
    user: str,
    admin: str | None,
    auditor: str | None,
    mailbox: str,
    mail_listen: str | None,
    code_command: str | None,
    speed: float,
    has_order_key: bool,
    environment: Mapping[str, str],
) -> ApiAccess | None:
    """What the options say; None without an API. *name*: the scenario's, for messages.

    Raises:
        ConfigurationError: something is missing or wrong.
    """
    has_history = any(expectation.kind == "history" for expectation in scenario.expect)
    if api is None:
        if scenario.ota is not None or has_history:
            what = "has an OTA task" if scenario.ota is not None else "expects something of histories"
            raise ConfigurationError(f"{name}: {what}, which needs the REST API of a platform: --to URL and --api URL")
        if admin or auditor or mail_listen or code_command:
            raise ConfigurationError("--api-admin, --api-auditor, --mail-listen and --code-command need --api URL")
        return None
    parts = urlsplit(api)
    try:
        has_port = parts.port is not None
    except ValueError as error:
        raise ConfigurationError(f"--api {api}: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username or has_port is None:
        raise ConfigurationError(f"--api: expected http://HOST:PORT or https://HOST:PORT, got {api}")
    if mail_listen and code_command:
        raise ConfigurationError("give --mail-listen or --code-command, not both")
    if scenario.ota is not None:
        if speed != 1.0:
            raise ConfigurationError(
                f"{name}: has an OTA task, and the platform's clock goes at its own speed: leave out --speed {speed:g}"
            )
        if not (mail_listen or code_command):
            raise ConfigurationError(
                f"{name}: has an OTA task, and a code starts it: give --mail-listen HOST:PORT, where the platform sends its mails, "
                "or --code-command CMD"
            )
        if not has_order_key:
            raise ConfigurationError(
                f"{name}: has an OTA task, and its units must trust the platform's orders: give --order-key FILE (bmsota-cloud keeps it "
                "in DATA/keys/order_public.pem)"
            )
    return ApiAccess(
        url=api.rstrip("/"),
        accounts=ApiAccounts(
            operator=_account("--api-user", user, environment),
            administrator=None if admin is None else _account("--api-admin", admin, environment),
            auditor=None if auditor is None else _account("--api-auditor", auditor, environment),
            mailbox=mailbox,
        ),
        mail=None if mail_listen is None else _listen(mail_listen),
        code_command=code_command,
    )


def _listen(text: str) -> tuple[str, int]:
    try:
        return host_and_port(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"--mail-listen: {error}") from error


def _account(option: str, name: str, environment: Mapping[str, str]) -> ApiAccount:
    variable = PASSWORD_VARIABLES[option]
    password = environment.get(variable)
    if not password:
        raise ConfigurationError(f"{option} {name}: no password; set the environment variable {variable}")
    return ApiAccount(name, password)
