"""What is uploaded is verified."""

import pytest
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from bmsota_cloud.domain.paging import PageRequest


def refused(world, manifest, images) -> str:
    with pytest.raises(InvalidInputError) as caught:
        world.services.releases.upload(manifest=manifest, images=images, by=world.people["carol"], now=world.now)
    assert world.services.releases.page(PageRequest(), by=world.people["vera"]).total == 0
    return caught.value.code


def test_a_release_is_kept_as_it_came(world, release_files):
    files = release_files()
    release = world.upload(files)
    assert (release.id, release.name, release.series, release.software_version) == (1, "F7-2.1.0", "F7", "2.1.0")
    assert [(image.kind, image.version, image.size_bytes) for image in release.images] == [
        ("master", "2.1.0", len(files.images[0])),
        ("slave", "2.1.0", len(files.images[1])),
    ]
    with world.cloud.store.reading() as work:
        assert work.releases.manifest(release.manifest_sha256) == files.manifest
        assert [work.releases.image(image.sha256) for image in release.images] == files.images
    assert world.services.releases.get(1, by=world.people["vera"]) == release


def test_the_same_release_again_is_the_same_release(world):
    assert world.upload() == world.upload()


def test_a_known_manifest_with_other_files_is_refused(world, release_files):
    """Answered like the release itself, the files would seem to be in it."""
    files, other = release_files(), release_files("E7")
    release = world.upload(files)
    for images, code in (
        (other.images, "image-missing"),
        (files.images[:1], "image-missing"),
        ([], "image-missing"),
        ([files.images[0], files.images[1] + b"\x00"], "image-missing"),
        ([*files.images, other.images[0]], "image-extra"),
        (files.images * 40, "bad-image"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            world.services.releases.upload(
                manifest=files.manifest, images=images, by=world.people["carol"], now=world.now
            )
        assert caught.value.code == code
    newest = world.services.audit.page(PageRequest(), by=world.people["anna"]).items[0]
    assert (newest.action, newest.outcome) == ("release.upload", "bad-image")
    # In another order they are the same files.
    assert (
        world.services.releases.upload(
            manifest=files.manifest, images=files.images[::-1], by=world.people["carol"], now=world.now
        )
        == release
    )


def test_a_version_of_a_series_is_one_release(world, release_files):
    world.upload()
    other = release_files(expires=world.now.replace(year=2030))
    with pytest.raises(ConflictError):
        world.upload(other)
    assert world.upload(release_files(version="2.2.0")).id == 2


def test_a_manifest_of_a_stranger_is_refused(world, release_files):
    files = release_files(manifest_key="stranger")
    assert refused(world, files.manifest, files.images) == "bad-manifest"


def test_an_image_of_a_stranger_is_refused_although_the_manifest_names_it(world, release_files):
    """A stolen manifest key alone brings no software in."""
    files = release_files(image_key="stranger")
    assert refused(world, files.manifest, files.images) == "bad-image"


def test_a_changed_manifest_is_refused(world, release_files):
    files = release_files()
    changed = bytearray(files.manifest)
    changed[len(changed) // 2] ^= 1
    assert refused(world, bytes(changed), files.images) == "bad-manifest"
    assert refused(world, b"", files.images) == "bad-manifest"


def test_an_expired_manifest_is_refused(world, release_files):
    files = release_files(expires=world.now)
    assert refused(world, files.manifest, files.images) == "bad-manifest"


def test_images_must_be_those_of_the_manifest(world, release_files):
    files, other = release_files(), release_files("E7")
    assert refused(world, files.manifest, files.images[:1]) == "image-missing"
    assert refused(world, files.manifest, []) == "image-missing"
    assert refused(world, files.manifest, [files.images[0], files.images[1] + b"\x00"]) == "image-missing"
    assert refused(world, files.manifest, [*files.images, other.images[0]]) == "image-extra"
    assert refused(world, files.manifest, files.images * 40) == "bad-image"


@pytest.mark.parametrize("who", ["alan", "vera"])
def test_who_may_not_upload(world, release_files, who):
    files = release_files()
    with pytest.raises(NotAllowedError):
        world.services.releases.upload(
            manifest=files.manifest, images=files.images, by=world.people[who], now=world.now
        )


def test_there_is_no_such_release(world):
    with pytest.raises(NotFoundError):
        world.services.releases.get(5, by=world.people["vera"])
