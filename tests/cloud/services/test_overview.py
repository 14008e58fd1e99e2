"""The overview's own rules: clusters of the grid, what the map shows, and that the state of others is never looked up."""

import pytest
from bmsota_cloud.domain.accounts import Account, Role, ScopeKind
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import Mark, StateRow
from bmsota_cloud.domain.vehicles import FleetState, VehicleFilter
from bmsota_cloud.services import FleetSort, MapBounds

EVERY = VehicleFilter()


def place(world, *places, first=1):
    """Vehicles at (latitude, longitude), numbered from *first* on."""
    rows = []
    for number, (latitude_deg, longitude_deg) in enumerate(places, first):
        world.register(number)
        rows.append(
            StateRow(
                world.vin(number),
                world.now_ns,
                soc_pct=float(100 - number),
                alarm_level=number % 3,
                latitude_deg=latitude_deg,
                longitude_deg=longitude_deg,
                is_position_valid=True,
            )
        )
    world.cloud.telemetry.save_derived(rows, (), Mark())


def seen(world, **options):
    return world.services.overview.map(EVERY, by=world.people["vera"], **options)


def test_vehicles_of_one_spot_are_one_cluster_at_every_zoom_and_named_up_to_twenty(world):
    place(world, *[(31.23, 121.47)] * 25)
    for zoom in (0, 7, 18, 99):
        (cluster,) = seen(world, clusters_from=1, zoom=zoom).clusters
        assert (cluster.latitude_deg, cluster.longitude_deg, cluster.vehicles, len(cluster.points)) == (
            31.23,
            121.47,
            25,
            20,
        )
        assert (cluster.online, cluster.faults) == (0, 17)


def test_clusters_part_as_one_comes_nearer(world):
    place(world, (31.2, 121.4), (31.3, 121.5), (39.9, 116.4), (-33.9, 151.2))
    counts = [
        sorted(cluster.vehicles for cluster in seen(world, clusters_from=1, zoom=zoom).clusters)
        for zoom in (0, 3, 6, 12)
    ]
    assert counts == [[1, 3], [1, 1, 2], [1, 1, 2], [1, 1, 1, 1]]
    assert all(sum(each) == 4 for each in counts)


def test_points_become_clusters_from_a_number_on(world):
    place(world, (1.0, 1.0), (2.0, 2.0), (3.0, 3.0))
    world.register(9)
    assert len(seen(world, clusters_from=4).points) == 3
    found = seen(world, clusters_from=3)
    assert (found.points, found.total, found.placed) == (None, 4, 3)


@pytest.mark.parametrize(
    ("bounds", "numbers"),
    [
        ("", [1, 2, 3]),
        ("-10,170,10,190", [2, 3]),
        ("-10,170,10,-170", [2, 3]),
        ("-10,-190,10,-175", [2, 3]),
        ("-10,-1,10,1", [1]),
        ("-90,-400,90,400", [1, 2, 3]),
        ("80,-180,90,180", []),
    ],
)
def test_what_is_in_the_bounds_is_shown_over_the_date_line_too(world, bounds, numbers):
    place(world, (0.0, 0.0), (0.0, 179.0), (0.0, -179.0))
    found = seen(world, clusters_from=1, zoom=9, bounds=MapBounds.parse(bounds))
    vins = sorted(point.vin for cluster in found.clusters for point in cluster.points)
    assert vins == [world.vin(number) for number in numbers]


@pytest.mark.parametrize("text", ["1", "1,2,3,4,5", "a,0,1,1", "5,0,1,1", "nan,0,1,1", "0,0,1,inf", "0,0,91,1"])
def test_bounds_that_are_none_are_refused(text):
    with pytest.raises(InvalidInputError, match="expected south,west,north,east in degrees"):
        MapBounds.parse(text)


def test_vehicles_without_a_value_come_last_and_pages_of_every_sort_have_each_once(world):
    place(world, *[(1.0, 1.0)] * 30)
    for number in range(40, 45):
        world.register(number)
    for sort in FleetSort:
        pages = [
            world.services.overview.page(PageRequest(number, 10), EVERY, by=world.people["vera"], sort=sort).page
            for number in (1, 2, 3, 4, 5)
        ]
        vins = [row.vin for page in pages for row in page.items]
        assert sorted(vins) == sorted({*vins}), sort
        assert len(vins) == 35
        if sort in {FleetSort.SOC, FleetSort.LAST_SEEN}:
            assert vins[-5:] == [world.vin(number) for number in range(40, 45)]
        if sort is FleetSort.SOC:
            assert vins[0] == world.vin(30)


def test_counts_marks_and_clusters_are_of_the_scope(world):
    place(world, (1.0, 1.0), (1.0, 1.0))
    nobody = Account(
        name="nobody",
        email="n@example.org",
        role=Role.VIEWER,
        password_hash="!",
        created_at=world.now,
        sees=ScopeKind.PROJECTS,
        projects=("Elsewhere",),
    )
    overview = world.services.overview
    found = overview.page(PageRequest(), EVERY, by=nobody)
    assert (found.total, found.page.items, set(found.counts.values())) == (0, (), {0})
    assert overview.map(EVERY, by=nobody).points == ()
    assert overview.map(EVERY, by=nobody, clusters_from=0).clusters == ()
    assert overview.page(PageRequest(), EVERY, by=world.people["vera"]).counts[FleetState.FAULTS] == 2
