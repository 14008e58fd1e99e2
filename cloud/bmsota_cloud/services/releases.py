"""Releases: what is uploaded is verified before it can be ordered.

The manifest must be signed with a release key, every image by an image key, and each image must be the
very one its line in the manifest describes. The platform can't sign either: it holds the order key only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from bmsota.errors import ImageError, TrustError
from bmsota.image import ImageRole, verify_image
from bmsota.ota import describe_image, verify_manifest
from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotFoundError
from bmsota_cloud.domain.paging import Page
from bmsota_cloud.domain.releases import Release, ReleasedImage
from bmsota_cloud.services.audit import acting

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bmsota.ota import ReleaseImage
    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.services.context import Context

__all__ = ["RELEASE_FILES_MAX", "ReleaseRow", "ReleaseService"]

# One image for the master and one for each kind of slave; the format itself ends at 64.
RELEASE_FILES_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRow:
    """A release in the list."""

    release: Release
    task_ids: tuple[int, ...]
    """The tasks that bring it, newest first."""
    running: int | None
    """How many vehicles have a master that runs its image; None for a release without an image for the master."""


class ReleaseService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def upload(
        self, *, manifest: bytes, images: Sequence[bytes], by: Account, now: datetime, address: str = ""
    ) -> Release:
        """Verify and keep a release. Uploading the same release again, images included, returns the one that is there.

        Raises:
            NotAllowedError: *by* may not upload.
            InvalidInputError: a signature is wrong, an image is missing, superfluous or not the one described.
            ConflictError: the series has another release with this software version.
        """
        digest = sha256(manifest).hexdigest()
        with acting(
            self._context,
            who=by.name,
            action="release.upload",
            subject=f"manifest {digest[:16]}",
            now=now,
            address=address,
        ) as act:
            require(by, Permission.RELEASE_UPLOAD)
            if (known := act.work.releases.by_manifest(digest)) is not None:
                _check_same_images(known, images)
                act.detail = f"release {known.id} is known already"
                return known
            try:
                content = verify_manifest(manifest, self._context.keys.manifest_public_keys)
            except TrustError as error:
                raise InvalidInputError("bad-manifest", f"the manifest was rejected: {error}") from error
            expires_at = datetime.fromtimestamp(content.expires_s, UTC)
            if expires_at <= now:
                raise InvalidInputError("bad-manifest", f"the manifest expired on {expires_at:%Y-%m-%d}")
            files = self._check_images(content.images, images)
            other = act.work.releases.find(series=content.series, software_version=content.software_version)
            if other is not None:
                raise ConflictError(
                    "version-taken",
                    f"series {content.series} already has version {content.software_version}: {other.name}",
                )
            release = act.work.releases.add(
                Release(
                    name=content.release,
                    software_version=content.software_version,
                    series=content.series,
                    manifest_sha256=digest,
                    images=tuple(_released(image) for image in content.images),
                    expires_at=expires_at,
                    uploaded_by=by.name,
                    uploaded_at=now,
                ),
                manifest,
                files,
            )
            act.subject = f"release {release.id}"
            act.detail = f"{release.name}, {len(files)} images"
        return release

    def page(self, request: PageRequest, *, by: Account) -> Page[Release]:
        """All releases, newest first."""
        require(by, Permission.RELEASE_READ)
        with self._context.store.reading() as work:
            return work.releases.page(request)

    def rows(self, request: PageRequest, *, by: Account, series: str = "") -> Page[ReleaseRow]:
        """Releases, newest first, with who uses them, as far as *by* sees vehicles and tasks."""
        require(by, Permission.RELEASE_READ)
        with self._context.store.reading() as work:
            page = work.releases.page(request, series=series)
            used_by = work.releases.used_by([release.id for release in page.items], by.scope)
            running = work.vehicles.running(by.scope)
        rows = tuple(
            ReleaseRow(release=release, task_ids=used_by[release.id], running=_running(release, running))
            for release in page.items
        )
        return Page(items=rows, total=page.total, number=page.number, size=page.size)

    def series(self, *, by: Account) -> tuple[str, ...]:
        """The series that have releases, sorted."""
        require(by, Permission.RELEASE_READ)
        with self._context.store.reading() as work:
            return work.releases.all_series()

    def get(self, release_id: int, *, by: Account) -> Release:
        """One release.

        Raises:
            NotFoundError: there is no such release.
        """
        require(by, Permission.RELEASE_READ)
        with self._context.store.reading() as work:
            release = work.releases.get(release_id)
        if release is None:
            raise NotFoundError("no-such-release", f"no release {release_id}")
        return release

    def _check_images(self, lines: Sequence[ReleaseImage], images: Sequence[bytes]) -> dict[str, bytes]:
        wanted = {line.sha256.hex(): line for line in lines}
        files = _files(wanted, images)
        for digest, line in wanted.items():
            try:
                verify_image(files[digest], public_keys=self._context.keys.image_public_keys)
                described = describe_image(files[digest], line.block_size_bytes)
            except (ImageError, TrustError) as error:
                raise InvalidInputError("bad-image", f"image {digest[:16]}: {error}") from error
            if described != line:
                raise InvalidInputError(
                    "bad-image", f"image {digest[:16]} differs from its description in the manifest"
                )
        return files


def _files(wanted: Collection[str], images: Sequence[bytes]) -> dict[str, bytes]:
    """The uploaded files by digest, which must be the wanted ones, no fewer and no more.

    Raises:
        InvalidInputError: there are others.
    """
    if len(images) > RELEASE_FILES_MAX:
        raise InvalidInputError("bad-image", f"images: expected at most {RELEASE_FILES_MAX}, got {len(images)}")
    files = {sha256(data).hexdigest(): data for data in images}
    missing = [digest[:16] for digest in wanted if digest not in files]
    if missing:
        raise InvalidInputError("image-missing", f"missing images of the manifest: {', '.join(missing)}")
    extra = [digest[:16] for digest in files if digest not in wanted]
    if extra:
        raise InvalidInputError("image-extra", f"not in the manifest: {', '.join(extra)}")
    return files


def _running(release: Release, running: Sequence[tuple[str, str, str, int]]) -> int | None:
    """By the master: its version, and where a signed document has named it, the very image."""
    masters = {image.version for image in release.images if image.kind == "master"}
    if not masters:
        return None
    digests = {image.sha256 for image in release.images}
    return sum(
        count
        for series, version, digest, count in running
        if series == release.series and version in masters and (not digest or digest in digests)
    )


def _check_same_images(known: Release, images: Sequence[bytes]) -> None:
    """Refuse other files for a manifest that is known: answered like the release itself, they would seem to be in it."""
    _files({image.sha256 for image in known.images}, images)


def _released(image: ReleaseImage) -> ReleasedImage:
    return ReleasedImage(
        kind="master" if image.role is ImageRole.MASTER else "slave",
        hardware_class=str(image.hardware_class.class_id),
        version=str(image.version),
        security_counter=image.security_counter,
        size_bytes=image.size_bytes,
        sha256=image.sha256.hex(),
    )
