"""The web pages: documents rendered on the server, forms, and one WebSocket a page for what is live.

Every page has a URL and works without JavaScript; scripts of our own add live values and lists that filter without a
whole load. Nothing is fetched from elsewhere, nothing is inline, so the Content-Security-Policy is strict.
Pages call services, and nothing below them.
Left out so far: creating a task and uploading a release (REST API), map, track, histories, export, manage pages.
"""

from bmsota_cloud.pages.router import add_error_pages, build_router, mount_static

__all__ = ["add_error_pages", "build_router", "mount_static"]
