"""What every page needs: services, settings and time of the platform, the templates, who is asking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from bmsota_cloud.pages.manage_sections import manage_sections
from bmsota_cloud.pages.rendering import Pages
from bmsota_cloud.pages.session import visitor_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import HTTPConnection, Request
    from starlette.responses import HTMLResponse

    from bmsota_cloud.clock import Clock
    from bmsota_cloud.pages.session import Visitor
    from bmsota_cloud.services import PlatformSettings, Services

__all__ = ["Query", "Site"]


class Site:
    """The pages of one platform."""

    def __init__(self, services: Services, settings: PlatformSettings, clock: Clock) -> None:
        self.services = services
        self.settings = settings
        self.now = clock
        self.pages = Pages(image_source=settings.map_tiles_origin)

    def visitor(self, connection: HTTPConnection) -> Visitor:
        """Who is asking.

        Raises:
            LoginError: the visitor is not logged in; the route leads to the login page.
        """
        return visitor_of(connection, self.services.accounts, self.settings, self.now())

    def address(self, request: Request) -> str:
        return "" if request.client is None else request.client.host

    def context(self, visitor: Visitor | None, **more: Any) -> dict[str, Any]:
        """What every template may use."""
        return {
            "account": None if visitor is None else visitor.account,
            "csrf": "" if visitor is None else visitor.csrf_token,
            "now": self.now(),
            "section": "",
            "manage_sections": () if visitor is None else manage_sections(visitor.account),
            **more,
        }

    def show(self, template: str, visitor: Visitor | None, /, *, status_code: int = 200, **more: Any) -> HTMLResponse:
        """A whole page."""
        return self.pages.page(template, self.context(visitor, **more), status_code=status_code)

    def show_list(self, request: Request, template: str, visitor: Visitor, /, **more: Any) -> HTMLResponse:
        """A page with a list: whole, or only its block "list" for a script that has the rest."""
        context = self.context(visitor, **more)
        if "x-partial" in request.headers:
            return self.pages.part(template, "list", context)
        return self.pages.page(template, context)


class Query:
    """The filters of a list as they stand in its address."""

    def __init__(self, path: str, filters: Mapping[str, str]) -> None:
        self._path = path
        self._filters = {name: value for name, value in filters.items() if value}

    def __bool__(self) -> bool:
        return bool(self._filters)

    def get(self, name: str) -> str:
        return self._filters.get(name, "")

    @property
    def bare(self) -> str:
        """The list without filters."""
        return self._path

    def where(self, name: str, value: str) -> str:
        """The address of the first page of the list with another value of one filter."""
        return Query(self._path, {**self._filters, name: value}).page(1)

    def at(self, path: str) -> str:
        """Another page with the same filters."""
        return f"{path}?{urlencode(self._filters)}" if self._filters else path

    def page(self, number: int) -> str:
        """The address of another page of the same list."""
        pairs = {**self._filters, **({"page": str(number)} if number > 1 else {})}
        return f"{self._path}?{urlencode(pairs)}" if pairs else self._path
